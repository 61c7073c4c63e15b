"""A training as people write it today: DDP over gloo, a checkpoint every 20 steps, started by torchrun.

Runs in pods of `others.py`, where nothing of Tessera is imported. Rank 0 leaves `NAME/last` in the bucket after each
step: when, which step, on which host.
"""

import io
import json
import os
import socket
import time

import boto3
import torch
import torch.distributed as dist
from botocore.exceptions import ClientError

BUCKET, EVERY = "models", 20


def main() -> None:
    name, s3 = os.environ["TOY_NAME"], boto3.client("s3")
    torch.manual_seed(7)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512))
    )
    optimizer = torch.optim.AdamW(model.parameters())
    step = 0
    try:
        saved = torch.load(io.BytesIO(s3.get_object(Bucket=BUCKET, Key=f"{name}/checkpoint")["Body"].read()))
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    except ClientError:
        pass
    while True:
        batch = torch.randn(256, 512)
        loss = (model(batch) - batch).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if dist.get_rank() == 0:
            if step % EVERY == 0:
                data = io.BytesIO()
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, data)
                s3.put_object(Bucket=BUCKET, Key=f"{name}/checkpoint", Body=data.getvalue())
            said = {"time": time.time(), "step": step, "host": socket.gethostname(), "world": dist.get_world_size()}
            s3.put_object(Bucket=BUCKET, Key=f"{name}/last", Body=json.dumps(said).encode())


main()
