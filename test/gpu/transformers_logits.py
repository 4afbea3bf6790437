"""Logits of checkpoints by transformers in float32 on a GPU: what test/gpu/transformers.test.ts compares with.

    python3 test/gpu/transformers_logits.py path/to/oracle.py tokens.json out

tokens.json: {folder: [token ids]}. Writes out/<name of the folder>.f32, float32 [tokens, vocabulary]. The oracle module
reads a checkpoint of any format into transformers: `load(folder)` gives the model.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
import transformers

oracle_path, tokens_path, out = sys.argv[1:4]
spec = importlib.util.spec_from_file_location("oracle", oracle_path)
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)

torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.cuda.get_device_name()}")
for folder, tokens in json.loads(Path(tokens_path).read_text()).items():
    model = oracle.load(folder).cuda()
    with torch.no_grad():
        logits = model(torch.tensor([tokens], device="cuda")).logits[0]
    assert logits.dtype == torch.float32
    (Path(out) / f"{Path(folder).name}.f32").write_bytes(logits.cpu().numpy().astype("<f4").tobytes())
