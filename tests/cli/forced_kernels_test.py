"""Every attention kernel that can run the bundled model can be forced on it, by flag and by variable; every other is
refused with its reason before any work. Models name no kernels: the kernels know."""

import json
import os
import re
import unittest

from devices_test import with_ascend, with_emulated_cuda
from support import EMOJI, CommandTest, rondo

TEXT_TOKENS, IMAGE_TOKENS = 32, 16


class ForcedKernelsTest(CommandTest):
    def answers(self, problem, env):
        """name: None, or why not; only kernels of the problem's device."""
        explained = rondo("backends", "--explain", problem, env=env)
        self.assertEqual(explained.returncode, 0, explained.stderr)
        found = re.findall(r"^  (\S+)\s+(?:(yes)|no: (.*))$", explained.stdout.decode(), re.M)
        self.assertGreater(len(found), 3)
        return {name: None if yes else reason for name, yes, reason in found if not reason.startswith("runs on ")}

    def force(self, device, dtype, kv_cache, env, extra=()):
        config = json.loads((EMOJI / "transformer" / "config.json").read_text())
        tokens = TEXT_TOKENS + IMAGE_TOKENS
        problem = (f"q=1x{config['num_attention_heads']}x{tokens}x{config['attention_head_dim']} dtype={dtype} device={device}"
                   + (f" kv_cache={kv_cache} rotation=1 smooth_k=1" if kv_cache != "auto" else ""))
        layers = config["num_layers"] + config["num_single_layers"]
        taken = set()
        for name, reason in self.answers(problem, env).items():
            for way, flags, variables in (("flag", ["--attention-backend", name], {}), ("variable", [], {"RONDO_ATTENTION_BACKEND": name})):
                with self.subTest(problem=problem, name=name, way=way):
                    report = self.folder / "run.json"
                    call = ["generate", "-p", "cat face", "--seed", 1, "--steps", 1, "--true-cfg-scale", 1, "--dtype", dtype,
                            "--device", device, "--kv-cache-dtype", kv_cache, "-o", self.folder / "a.png", "--report", report]
                    if kv_cache != "auto":
                        call += ["--quantize-attention-smooth-k"]
                    result = rondo(*call, *extra, *flags, env={**env, **variables})
                    if reason is None:
                        self.assertEqual(result.returncode, 0, result.stderr.decode())
                        components = {c["name"]: c for c in json.loads(report.read_text())["components"]}
                        self.assertIn(f"attention: {name} x {layers}", components["transformer"]["kernels"])
                        if name == "reference":  # the variable is the transformer's as well
                            self.assertNotIn("attention: reference", str(components["text_encoder_2"]["kernels"]))
                        taken.add(name)
                    else:
                        self.assertIn(result.returncode, (1, 2), result.stderr.decode())
                        said = result.stderr.decode()
                        self.assertIn(name, said)
                        self.assertNotIn("encode prompt", said)
        return taken

    def test_on_the_cpu(self):
        taken = set()
        for kv_cache in "auto", "int8", "fp8":
            taken |= self.force("cpu", "float32", kv_cache, {**os.environ})
        self.assertLessEqual({"flash", "flash-int8", "flash-fp8", "reference"}, taken)

    def test_on_the_cpu_in_bfloat16(self):
        if "avx512_bf16" not in rondo("--version").stdout.decode() and "amx" not in rondo("--version").stdout.decode():
            self.skipTest("needs a CPU that multiplies bfloat16")
        taken = set()
        for kv_cache in "auto", "int8", "fp8":
            taken |= self.force("cpu", "bfloat16", kv_cache, {**os.environ})
        self.assertIn("flash-bf16", taken)

    def test_on_ascend(self):
        taken = self.force("ascend:0", "bfloat16", "auto", with_ascend()["env"])
        self.assertIn("ascend-fia", taken)
        chip = with_ascend(ASCEND_SIMULATOR_SOC="Ascend950PR_9589")["env"]
        self.assertIn("ascend-fia-fp8", self.force("ascend:0", "bfloat16", "fp8", chip))

    def test_on_cuda(self):
        taken = self.force("cuda:0", "bfloat16", "auto", with_emulated_cuda()["env"])
        self.assertLessEqual({"flash-mma", "cudnn"}, taken)
        self.assertIn("cudnn-fp8", self.force("cuda:0", "bfloat16", "fp8", with_emulated_cuda(EMULATED_COMPUTE_CAPABILITY="90")["env"]))


if __name__ == "__main__":
    unittest.main()
