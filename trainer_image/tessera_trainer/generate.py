"""Generate: a few lines from an exported model, as a stranger would get them: `transformers` alone, none of our code.

    python -m tessera_trainer.generate FOLDER --prompt 'def main(' [--prompt ...] [--tokens 64] [--seed 1]

Each prompt is continued twice: by the likeliest token each time, and by seeded sampling.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_TEMPERATURE = 0.8
_LIKELIEST = 40


@dataclass(frozen=True)
class Continuation:
    """A prompt with what the model made of it."""

    prompt: str
    way: str
    text: str

    def __str__(self) -> str:
        return f"--- {self.way}\n{self.prompt}{self.text}"


def continuations(folder: Path, prompts: Sequence[str], tokens: int, seed: int) -> Iterator[Continuation]:
    """Two continuations of at most `tokens` tokens for each prompt. Raises OSError where `folder` is no export."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # takes seconds, and only this needs it

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    ways: dict[str, dict[str, Any]] = {
        "greedy": {"do_sample": False},
        f"sampled, seed {seed}": {"do_sample": True, "temperature": _TEMPERATURE, "top_k": _LIKELIEST},
    }
    for prompt in prompts:
        given = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        for way, settings in ways.items():
            torch.manual_seed(seed)
            made = model.generate(**given, **settings, max_new_tokens=tokens)
            text = tokenizer.decode(made[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
            yield Continuation(prompt, way, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit status 0, or 1 where the folder is no export."""
    parser = argparse.ArgumentParser(prog="python -m tessera_trainer.generate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="an exported model")
    parser.add_argument("--prompt", action="append", required=True, help="text to continue; may be given again")
    parser.add_argument("--tokens", type=int, default=64, help="at most this many new tokens (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the sampling (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        for continuation in continuations(options.folder, options.prompt, options.tokens, options.seed):
            print(continuation)
    except OSError as error:
        print(f"{options.folder} is no exported model: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
