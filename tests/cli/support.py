"""What the command's tests share: running it, reading its pictures, what a refusal looks like."""

import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest
import zlib
from pathlib import Path

RONDO = os.environ["RONDO"]
ROOT = Path(__file__).resolve().parents[2]
EMOJI = ROOT / "models" / "emoji"
QUICK = ["--num-inference-steps", "2", "--true-cfg-scale", "1"]


def pixels(path):
    """The bytes of a PNG's picture, filters undone (8-bit RGB, as rondo writes it)."""
    data, at, packed, width = path.read_bytes(), 8, b"", 0
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"IHDR":
            width = struct.unpack(">I", data[at + 8:at + 12])[0]
        if kind == b"IDAT":
            packed += data[at + 8:at + 8 + length]
        at += length + 12
    raw, stride, rows, above = zlib.decompress(packed), width * 3, [], [0] * (width * 3)
    for start in range(0, len(raw), stride + 1):
        kind, row = raw[start], list(raw[start + 1:start + 1 + stride])
        for i in range(stride):
            a, b, c = (row[i - 3] if i >= 3 else 0), above[i], (above[i - 3] if i >= 3 else 0)
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[i] = (row[i] + (0, a, b, (a + b) // 2, nearest)[kind]) % 256
        rows.append(row)
        above = row
    return rows


def rondo(*arguments, **more):
    return subprocess.run([RONDO, *map(str, arguments)], capture_output=True, timeout=120, **more)


class CommandTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="rondo-cli-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def generate(self, *arguments, **more):
        return rondo("generate", "--quiet", "--prompt", "cat face", "--seed", 1, *QUICK, *arguments, **more)

    def assert_fails(self, result, code, *parts):
        """One clear line on stderr, nothing on stdout, the right exit code."""
        error = result.stderr.decode()
        self.assertEqual(result.returncode, code, error)
        self.assertEqual(result.stdout, b"")
        lines = [line for line in error.splitlines() if line.startswith("rondo: ")]
        self.assertEqual(len(lines), 1, error)
        for part in parts:
            self.assertIn(part, lines[0])

    def copy_model(self):
        model = self.folder / "model"
        shutil.copytree(EMOJI, model)
        for path in model.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return model

    def edit_config(self, model, component, **changes):
        path = model / component / ("scheduler_config.json" if component == "scheduler" else "config.json")
        config = json.loads(path.read_text())
        config.update(changes)
        path.write_text(json.dumps(config))
