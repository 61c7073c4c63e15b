"""TRL's SFTTrainer over conversations that are given step by step; `finetune_peers.py` runs it.

python benchmarks/trl_run.py JSON: {"trl": folder with TRL, "model", "steps": file of [[{"input_ids",
"completion_mask"}]], "rate", "decay", "micro_batch", "threads", "out": file for {"loss", "seconds"} of each step}. Each
step has as many conversations, in micro-batches of "micro_batch"; its loss is the mean over all its learned tokens.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    asked = json.loads(sys.argv[1])
    sys.path.append(asked["trl"])
    import torch

    torch.set_num_threads(asked["threads"])
    steps = json.loads(Path(asked["steps"]).read_text())
    found: dict[str, list[float]] = {"loss": [], "seconds": []}
    trainer = made(asked, steps, found)
    trainer.train()
    Path(asked["out"]).write_text(json.dumps(found))


def made(asked: dict[str, Any], steps: list[Any], found: dict[str, list[float]]) -> Any:
    from datasets import Dataset  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    class Watch(TrainerCallback):
        """Takes the time of each step, and its loss."""

        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            found["seconds"].append(time.perf_counter() - self.began)

        def on_log(self, *_: Any, **named: Any) -> None:
            if "loss" in (named["logs"] or {}):
                found["loss"].append(named["logs"]["loss"])

    micro = asked["micro_batch"]
    rows = [row for step in steps for row in step]
    settings = SFTConfig(
        output_dir="/nowhere",
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=len(steps[0]) // micro,
        max_steps=len(steps),
        learning_rate=asked["rate"],
        lr_scheduler_type="constant",
        weight_decay=asked["decay"],
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        logging_steps=1,
        logging_first_step=True,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        train_sampling_strategy="sequential",
        max_length=None,
        completion_only_loss=True,
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    return SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Watch()],
    )


if __name__ == "__main__":
    main()
