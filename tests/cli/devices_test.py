"""Devices as a person meets them: found, missing, forced, disabled, failing. Ascend is played by its simulator, which
ends the process with 97 where CANN's rules are broken or something is left over: an exit status of 0 says more here."""

import json
import os
import re
import shutil
import unittest
from pathlib import Path

from support import EMOJI, QUICK, CommandTest, pixels, rondo

LIBRARIES = Path(os.environ["RONDO_TEST_LIBRARIES"])
SIMULATOR = LIBRARIES / "ascend_simulator"
ASCEND = ["--device", "ascend", "--dtype", "float32"]


def with_ascend(folder=None, **more):
    """The environment in which there is an Ascend device; `folder`: a variant of its operators' library."""
    path = ([str(SIMULATOR / folder)] if folder else []) + [str(SIMULATOR)]
    return {"env": {**os.environ, "LD_LIBRARY_PATH": ":".join(path), **more}}


def with_emulated_cuda(**more):
    """The environment in which CUDA's kernels run on the CPU, and NCCL's messages are files."""
    emulation = str(LIBRARIES / "cuda_emulation")
    return {"env": {**os.environ, "RONDO_PLUGIN_PATH": emulation, "LD_LIBRARY_PATH": emulation, **more}}


def without_ascend(**more):
    return {"env": {**{k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}, **more}}


class DevicesTest(CommandTest):
    def draw(self, *flags, env=None, name="a.png"):
        path = self.folder / name
        result = self.generate("-o", path, *flags, **(env or with_ascend()))
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        return [value for row in pixels(path) for value in row]

    def assert_same_picture(self, one, other, most=1):
        self.assertLessEqual(max(abs(a - b) for a, b in zip(one, other)), most)

    def test_ascend_draws_the_cpus_picture(self):
        cpu = self.draw("--device", "cpu", "--dtype", "float32")
        for flags in ([], ["--no-compile"], ["--lanes", 2]):
            with self.subTest(flags):
                report = self.folder / "report.json"
                self.assert_same_picture(self.draw(*ASCEND, *flags, "--report", report), cpu)
                for component in json.loads(report.read_text())["components"]:
                    self.assertEqual(component["device"], "ascend:0")
                    self.assertIn(" 0 on the CPU", component["placement"])
        # Guidance in one run of two prompts, tiles, on an older CANN.
        more = ["--true-cfg-scale", 3, "--width", 128, "--height", 160, "--vae-tiling", "on", "--cfg-fusion", "on"]
        cpu = self.draw("--device", "cpu", "--dtype", "float32", *more)
        self.assert_same_picture(self.draw(*ASCEND, *more, env=with_ascend("cann80")), cpu)

    def test_eval_linears_measures_the_devices_kernels(self):
        def evaluate(dtype, *flags, **env):
            result = rondo("eval", "linears", "--num-inference-steps", 1, "--dtype", dtype, "--json", *flags, **env)
            self.assertEqual(result.returncode, 0, result.stderr.decode())
            return {layer["name"]: layer for layer in json.loads(result.stdout)["layers"] if layer["quantized"]}

        for device, kernel, env in (("cuda", "int8", with_emulated_cuda()), ("ascend", "quant-matmul", with_ascend())):
            dtype = "float32" if device == "cuda" else "bfloat16"
            cpu = evaluate("float32", "--quantize", "w8a8", "--device", "cpu", env=without_ascend()["env"])
            there = evaluate(dtype, "--quantize", "w8a8", "--device", device, **env)
            self.assertEqual(cpu.keys(), there.keys())
            self.assertGreater(len(there), 20)
            self.assertEqual({layer["kernel"] for layer in there.values()}, {kernel})
            self.assertTrue({layer["kernel"] for layer in cpu.values()}.isdisjoint({"quant-matmul"}))
            for name, layer in there.items():
                self.assertGreater(layer["cosine"], 0.999)
                self.assertAlmostEqual(layer["relative_l2"], cpu[name]["relative_l2"], delta=0.01)

    def test_cuda_draws_the_cpus_picture_in_its_emulation(self):
        quick = ["--true-cfg-scale", 1, "--num-inference-steps", 1]
        cpu = self.draw("--device", "cpu", "--dtype", "float32", *quick)
        cuda = ["--device", "cuda", "--dtype", "float32", *quick]
        emulation = with_emulated_cuda()
        self.assert_same_picture(self.draw(*cuda, env=emulation), cpu)
        self.assert_same_picture(self.draw(*cuda, "--layerwise-offload", "on", env=emulation), cpu)
        report = self.folder / "report.json"
        for quantized, kernel in ((["w8a8", "--quantize-rotation", "hadamard"], "int8"), (["w4a16"], "weight-only")):
            picture = self.draw(*cuda, "--quantize", *quantized, "--report", report, env=emulation)
            self.assertGreater(4, sum(abs(a - b) for a, b in zip(picture, cpu)) / len(cpu))
            kernels = " ".join(json.loads(report.read_text())["components"][2]["kernels"])
            self.assertRegex(kernels, rf"linear: {kernel} x \d+")
        # Of e4m3 sums get their scales by a kernel of Rondo's in float32, by the product in bfloat16.
        # A scale for each row is Hopper's: Ada leaves it to Rondo.
        for dtype, chip, quantized in (("float32", "90", ["fp8", "--quantize-rotation", "hadamard"]), ("bfloat16", "90", ["fp8"]),
                                       ("bfloat16", "89", ["fp8"]), ("bfloat16", "89", ["fp8-per-tensor"])):
            with self.subTest(dtype=dtype, chip=chip, quantized=quantized):
                emulation = with_emulated_cuda(EMULATED_COMPUTE_CAPABILITY=chip)
                flags = ["--dtype", dtype, "--quantize", *quantized, *quick]
                expected = self.draw("--device", "cpu", *flags)
                picture = self.draw("--device", "cuda", *flags, "--report", report, env=emulation)
                self.assertGreater(2, sum(abs(a - b) for a, b in zip(picture, expected)) / len(cpu))
                kernels = " ".join(json.loads(report.read_text())["components"][2]["kernels"])
                self.assertRegex(kernels, r"linear: fp8 x \d+")
        older = rondo("generate", "--prompt", "cat face", "--device", "cuda", "--quantize", "fp8", "-o", self.folder / "no.png",
                      **with_emulated_cuda(EMULATED_COMPUTE_CAPABILITY="80"))
        self.assertEqual(older.returncode, 1)
        self.assertIn("fp8: needs compute capability 8.9", older.stderr.decode())

    @unittest.skipUnless(shutil.which("mpirun"), "no MPI")
    def test_ranks_exchange_by_nccl_in_its_emulation(self):
        quick = ["--true-cfg-scale", 1, "--num-inference-steps", 1, "--dtype", "float32"]
        cpu = self.draw("--device", "cpu", *quick)
        path = self.folder / "ranks.png"
        for degree in ("--ulysses-degree", "--ring-degree"):
            result = rondo("launch", "-n", 2, "generate", "--prompt", "cat face", "--seed", 1, "--device", "cuda", *quick,
                           degree, 2, "-o", path, **with_emulated_cuda(EMULATED_GPUS="2"))
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn("messages: between devices (cuda:0, cuda:1)", result.stderr.decode())
            self.assert_same_picture([v for row in pixels(path) for v in row], cpu)

    def test_bfloat16_and_w8a8_stay_close(self):
        cpu = self.draw("--device", "cpu", "--dtype", "float32")
        for flags in (["--dtype", "bfloat16"], ["--dtype", "bfloat16", "--quantize", "w8a8"]):
            with self.subTest(flags):
                report = self.folder / "report.json"
                picture = self.draw("--device", "ascend", *flags, "--report", report)
                self.assertGreater(2, sum(abs(a - b) for a, b in zip(picture, cpu)) / len(cpu))
                kernels = " ".join(json.loads(report.read_text())["components"][2]["kernels"])
                self.assertIn("attention: ascend-fia", kernels)
                self.assertEqual("quant-matmul" in kernels, "w8a8" in flags)

    def test_layers_come_from_host_memory(self):
        def offloaded(*flags, **more):
            report = self.folder / "report.json"
            picture = self.draw(*ASCEND, "--report", report, *flags, env=with_ascend(**more))
            return picture, {c["name"]: c["offload"] for c in json.loads(report.read_text())["components"]}

        whole, none = offloaded()
        self.assertEqual(set(none.values()), {""})
        for flags in ([], ["--lanes", 2, "--true-cfg-scale", 3], ["--dtype", "bfloat16", "--quantize", "w8a8"]):
            with self.subTest(flags):
                expected = offloaded("--layerwise-offload", "off", *flags)[0]
                picture, layers = offloaded("--layerwise-offload", "on", *flags)
                self.assertEqual(picture, expected)
                self.assertRegex(layers["transformer"], r"weights of 10 of 10 layers come from host memory, .* a run")
                self.assertRegex(layers["text_encoder_2"], r"weights of 4 of 4 layers")
        # By itself, where all do not fit.
        picture, layers = offloaded("--memory-limit", "44MB")
        self.assertEqual(picture, whole)
        self.assertRegex(layers["transformer"], r"weights of [2-9] of 10 layers")
        self.assert_fails(self.generate(*ASCEND, "--layerwise-offload", "off", "-o", "/dev/null",
                                        **with_ascend(RONDO_DEVICE_MEMORY_LIMIT="30MB")), 1, "size: 64 x 64 needs about")
        self.assert_fails(self.generate("--device", "cpu", "--layerwise-offload", "on", "-o", "/dev/null"), 2,
                          "layerwise-offload: on is given, but on the CPU")

    def test_memory_that_is_short_is_enough(self):
        """The more there is, the fewer layers leave; a second prompt finds room for its encoders again."""
        prompts = self.folder / "two.txt"
        prompts.write_text("cat\ndog\n")
        for dtype, limits in (("float32", (26, 34, 42, 50, 60, 80)), ("bfloat16", (18, 26, 34, 60))):
            last = 10
            for limit in limits:
                with self.subTest(dtype=dtype, limit=limit):
                    env = with_ascend(RONDO_DEVICE_MEMORY_LIMIT=f"{limit}MB", RONDO_LOG="info")
                    drawn = rondo("generate", "--prompts-file", prompts, "--seed", 1, "--num-inference-steps", 1, "--device",
                                  "ascend", "--dtype", dtype, "-o", self.folder / "p.png", **env)
                    self.assertEqual(drawn.returncode, 0, drawn.stderr)
                    leave = re.findall(r"transformer: layerwise offload: weights of (\d+) of 10", drawn.stderr.decode())
                    leaving = max(map(int, leave), default=0)
                    self.assertLessEqual(leaving, last)
                    last = leaving
            self.assertEqual(last, 0)

    @unittest.skipUnless(shutil.which("mpirun"), "no MPI")
    def test_each_rank_has_its_devices_memory(self):
        report = self.folder / "report.json"
        def launch(**more):
            result = rondo("launch", "-n", 2, "generate", "--prompt", "cat", *QUICK, *ASCEND, "--ulysses-degree", 2, "-o",
                           self.folder / "r.png", "--report", report, **with_ascend(ASCEND_SIMULATOR_MEMORY="64000000", **more))
            self.assertEqual(result.returncode, 0, result.stderr)
            return result.stderr.decode(), {c["name"]: c["offload"] for c in json.loads(report.read_text())["components"]}

        log, layers = launch(ASCEND_SIMULATOR_DEVICES="2")
        self.assertNotIn("text encoders: released", log)
        self.assertEqual(set(layers.values()), {""})

    def test_attention_in_fp8_where_the_chip_multiplies_it(self):
        fp8 = ["--device", "ascend", "--dtype", "bfloat16", "--kv-cache-dtype", "fp8"]
        newest = with_ascend(ASCEND_SIMULATOR_SOC="Ascend950PR_9589")
        cpu = self.draw("--device", "cpu", "--dtype", "float32")
        for flags in ([], ["--quantize-attention-smooth-k", "--quantize-attention-rotation", "none"]):
            with self.subTest(flags):
                report = self.folder / "report.json"
                picture = self.draw(*fp8, *flags, "--report", report, env=newest)
                self.assertGreater(4, sum(abs(a - b) for a, b in zip(picture, cpu)) / len(cpu))
                self.assertIn("attention: ascend-fia-fp8 x 8", json.loads(report.read_text())["components"][2]["kernels"])
        self.assert_fails(self.generate(*fp8, "-o", "/dev/null", **with_ascend()), 1,
                          "Atlas A2 (910B) multiplies no e4m3 in attention")

    def test_attention_in_fp8_by_cudnn_in_its_emulation(self):
        flags = ["--device", "cuda", "--dtype", "bfloat16", "--true-cfg-scale", 1, "--num-inference-steps", 1]
        plain = self.draw(*flags, env=with_emulated_cuda())
        report = self.folder / "report.json"
        picture = self.draw(*flags, "--kv-cache-dtype", "fp8", "--report", report, env=with_emulated_cuda())
        self.assertIn("attention: cudnn-fp8 x 8", json.loads(report.read_text())["components"][2]["kernels"])
        self.assertNotEqual(picture, plain)
        self.assertGreater(1, sum(abs(a - b) for a, b in zip(picture, plain)) / len(plain))
        self.assert_fails(self.generate(*flags, "--kv-cache-dtype", "fp8", "-o", self.folder / "no.png",
                                        **with_emulated_cuda(EMULATED_COMPUTE_CAPABILITY="80")), 1, "needs Hopper or later")

    def test_a_step_is_measured_as_it_runs_and_node_by_node(self):
        step = ["bench", "step", "--preset", "emoji", "--layers", "1,1", "--width", 32, "--height", 32, "--text-tokens", 8,
                "--runs", 2, "--json", "--device", "cuda"]
        for flags in ([], ["--layerwise-offload", "on"]):
            row = json.loads(rondo(*step, *flags, **with_emulated_cuda()).stdout)
            self.assertEqual(row["device"], "cuda:0")
            self.assertAlmostEqual(sum(o["ms"] for o in row["operators"]), row["ms_nodes"], delta=0.01)
            self.assertIn("linear (cublaslt)", [o["operator"] for o in row["operators"]])
            self.assertTrue(all(o["ms"] > 0 for o in row["operators"]))

    def test_steps_are_recorded_in_cudas_emulation(self):
        flags = ["--device", "cuda", "--dtype", "float32", "--width", 32, "--height", 32, "--num-inference-steps", 4]
        report = self.folder / "report.json"

        def draw(*more):
            picture = self.draw(*flags, *more, "--report", report, env=with_emulated_cuda())
            return picture, {c["name"]: c["cuda_graph"] for c in json.loads(report.read_text())["components"]}

        plain, recorded = draw("--cuda-graph", "off")
        self.assertEqual(set(recorded.values()), {""})
        picture, recorded = draw()
        self.assertEqual(picture, plain)
        self.assertEqual(recorded["transformer"], "1 recorded")
        skips = ["--quantize", "w8a8", "--quantize-skip-steps", "0-1"]
        picture, recorded = draw(*skips, "--cuda-graph", "on")
        self.assertEqual(recorded["transformer"], "2 recorded")  # with products in 8 bits and without
        self.assertEqual(picture, draw(*skips, "--cuda-graph", "off")[0])
        picture, recorded = draw("--layerwise-offload", "on")
        self.assertEqual(picture, plain)
        self.assertEqual(recorded["transformer"], "")
        refuse = lambda part, *more, env: self.assert_fails(
            self.generate("--cuda-graph", "on", "-o", self.folder / "no.png", *more, **env), 2, "cuda-graph: on is given, but " + part)
        refuse("on the CPU there is nothing to record", "--device", "cpu", env=without_ascend())
        refuse("ascend:0: its streams record no work", "--device", "ascend", env=with_ascend())
        refuse("layerwise-offload is on", "--device", "cuda", "--layerwise-offload", "on", env=with_emulated_cuda())

    def test_chips_say_what_they_lack(self):
        old = with_ascend(ASCEND_SIMULATOR_SOC="Ascend310P3")
        # float32 is all that it has, and it rounds its products to float16.
        cpu, picture = self.draw("--device", "cpu", "--dtype", "float32"), self.draw(*ASCEND, env=old)
        self.assertGreater(1, sum(abs(a - b) for a, b in zip(picture, cpu)) / len(cpu))
        self.assertIn(b"rounds products of float32 to float16", rondo("inspect", EMOJI, "--device", "ascend", **old).stderr)
        training = with_ascend(ASCEND_SIMULATOR_SOC="Ascend910A")
        self.assertGreater(1, sum(abs(a - b) for a, b in zip(self.draw(*ASCEND, env=training), cpu)) / len(cpu))
        self.assert_fails(self.generate("--device", "ascend", "--dtype", "bfloat16", "-o", "/dev/null", **old), 1,
                          "dtype: bfloat16 is given, but Ascend310P3 has no bfloat16")
        self.assertIn("has no FusedInferAttentionScore", rondo("backends", **old).stdout.decode())

    def test_auto_takes_the_best_that_is_there(self):
        for env, flags, device in ((with_ascend(), [], "ascend:0"), (with_ascend(RONDO_DEVICE="cpu"), [], "cpu"),
                                   (with_ascend(RONDO_DEVICE="cpu"), ["--device", "auto"], "ascend:0"),
                                   (with_ascend(RONDO_DISABLE_BACKENDS="ascend"), [], "cpu"), (without_ascend(), [], "cpu")):
            with self.subTest(env["env"].get("RONDO_DEVICE"), flags=flags, device=device):
                result = rondo("inspect", EMOJI, "--dtype", "float32", *flags, **env)
                self.assertIn(f"would run in float32 on {device}\n", result.stdout.decode(), result.stderr)

    def test_what_is_not_there_is_refused_with_the_reason(self):
        refuse = lambda part, *flags, env: self.assert_fails(rondo("inspect", EMOJI, *flags, **env), 1, part)
        refuse("ascend:0 is given, but it is not there", "--device", "ascend", env=without_ascend())
        refuse("libascendcl.so cannot be opened", "--device", "ascend", env=without_ascend())
        refuse("disabled by RONDO_DISABLE_BACKENDS", "--device", "ascend", env=with_ascend(RONDO_DISABLE_BACKENDS="ascend"))
        refuse("there are 1: 0 to 0", "--device", "ascend:1", env=with_ascend())
        self.assert_fails(rondo("inspect", EMOJI, **with_ascend(RONDO_DEVICE="npu")), 2, "RONDO_DEVICE: 'npu' is given")
        self.assert_fails(rondo("inspect", EMOJI, "--device", "ascend:x", **with_ascend()), 2, "--device: 'ascend:x' is given")
        refuse("the driver finds no device", "--device", "ascend", env=with_ascend(ASCEND_SIMULATOR_DEVICES="0"))
        refuse("aclrtGetDeviceCount failed with 507008", "--device", "ascend",
               env=with_ascend(ASCEND_SIMULATOR_FAULT="aclrtGetDeviceCount=507008"))

    def test_forced_attention_must_be_able_to(self):
        forced = lambda name, *flags: self.generate("--attention-backend", name, *flags, "-o", "/dev/null", **with_ascend())
        self.assert_fails(forced("ascend-fia", *ASCEND), 1, "ascend-fia", "takes bfloat16 and float16 only")
        self.assert_fails(forced("flash", *ASCEND), 1, "flash", "runs on cpu; the operands are on ascend:0")
        self.assert_fails(forced("ascend-laser", *ASCEND), 1, "comes with MindIE's custom operators")
        self.assertEqual(forced("ascend-pfa", "--device", "ascend", "--dtype", "bfloat16").returncode, 0)
        without = with_ascend(RONDO_DISABLE_BACKENDS="ascend-fia")
        explained = rondo("backends", "--explain", "q=1x3x80x64 dtype=bf16 device=ascend", **without).stdout.decode()
        self.assertIn("disabled by RONDO_DISABLE_BACKENDS", explained)
        self.assertIn("selected: ascend-pfa (first that supports it)", explained)

    def test_attention_that_no_kernel_takes_runs_on_the_cpu(self):
        env = with_ascend(RONDO_DISABLE_BACKENDS="ascend-math")
        self.assert_fails(self.generate(*ASCEND, "-o", "/dev/null", **env), 1, "has no kernel for attention")
        picture = self.draw(*ASCEND, "--allow-cpu-fallback", env=env)
        self.assert_same_picture(picture, self.draw("--device", "cpu", "--dtype", "float32"))

    def test_measurements_are_the_devices(self):
        bench = lambda *flags, **more: rondo("bench", "attention", "--problem", "q=1x3x96x64 dtype=bf16", "--runs", 1, "--device", "ascend",
                                             *flags, **with_ascend(RONDO_CACHE_DIR=str(self.folder), **more))
        row = json.loads(bench("--json", "--check").stdout)[0]
        self.assertEqual((row["kernel"], row["device"], row["failure"]), ("ascend-fia", "ascend:0", ""))
        self.assertNotIn("peak_share", row)
        self.assertEqual(bench(ASCEND_SIMULATOR_FAULT="aclCreateTensor=1:1").returncode, 1)
        self.assertEqual(bench("--backend", "all", "--tune", "on").returncode, 0)
        profile = json.loads(rondo("profile", "--json", "--num-inference-steps", 1, "--device", "ascend", **with_ascend()).stdout)
        self.assertEqual(profile["device"], "ascend:0")
        self.assertNotIn("bound", profile["operators"][0])
        shown = rondo("config", "show", **with_ascend(RONDO_DEVICE="cpu")).stdout.decode()
        self.assertRegex(shown, r"device +cpu +RONDO_DEVICE")
        self.assert_fails(self.generate(*ASCEND, "-o", "/dev/null", **with_ascend(RONDO_REFERENCE_KERNELS="linear")), 2, "RONDO_REFERENCE_KERNELS")
        self.assertEqual(rondo("inspect", EMOJI, "--device", "cpu", **with_ascend(RONDO_DISABLE_BACKENDS="ascend-fia")).returncode, 0)

    def test_doctor_and_backends(self):
        text = rondo("doctor", **with_ascend(ASCEND_SIMULATOR_DEVICES="2")).stdout.decode()
        for part in ("librondo_ascend.so", "AscendCL           1.17.0", "ascend:1", "--device auto would take ascend:0"):
            self.assertIn(part, text)
        text = rondo("doctor", **without_ascend()).stdout.decode()
        self.assertIn("libascendcl.so cannot be opened", text)
        self.assertIn("CANN", text)
        self.assertIn("--device auto would take cpu", text)
        backends = rondo("backends", **without_ascend()).stdout.decode()
        self.assertRegex(backends, r"ascend +plug-in +not used +.*libascendcl.so cannot be opened")
        quiet = rondo("inspect", EMOJI, **without_ascend(RONDO_LOG="info"))
        self.assertIn("librondo_ascend.so: not used: libascendcl.so cannot be opened", quiet.stderr.decode())

    def test_plugins_that_do_not_fit(self):
        for misfit, reason in (("NO_SYMBOL", "it has no symbol rondo_plugin"), ("OTHER_VERSION", "its interface is version 2"),
                               ("OTHER_BUILD", "it was built with another library (0123456789abcdef"),
                               ("OLD_DRIVER", "the driver is version 1; 2 is needed")):
            with self.subTest(misfit):
                env = without_ascend(RONDO_PLUGIN_PATH=str(LIBRARIES / "plugins" / misfit))
                backends = rondo("backends", **env)
                self.assertEqual(backends.returncode, 0)
                self.assertIn(reason, backends.stdout.decode())
                self.assert_fails(rondo("inspect", EMOJI, "--device", "cuda", **env), 1, "cuda:0 is given", reason)
        (self.folder / "librondo_cuda.so").write_text("this is no library")
        self.assertIn("it cannot be opened", rondo("backends", **without_ascend(RONDO_PLUGIN_PATH=str(self.folder))).stdout.decode())

    def test_of_two_plugins_the_first_is_used(self):
        plugin = Path(os.environ["RONDO"]).parent / "librondo_ascend.so"
        shutil.copy(plugin, self.folder)
        backends = rondo("backends", **with_ascend(RONDO_PLUGIN_PATH=f"{self.folder}:{self.folder}/none")).stdout.decode()
        self.assertIn(f"in use         {plugin}", backends)
        self.assertIn(f"not used       {self.folder}/librondo_ascend.so: {plugin} is used", backends)

    def test_what_has_no_kernel_is_named_and_may_run_on_the_cpu(self):
        env = with_ascend("partial")
        plan = rondo("inspect", EMOJI, "--plan", *ASCEND, **env).stdout.decode()
        self.assertRegex(plan, r"no kernel on ascend:0: conv2d \(.*this version of CANN has no aclnnConvolution")
        refused = self.generate(*ASCEND, "-o", self.folder / "a.png", **env)
        self.assert_fails(refused, 1, "ascend:0: has no kernel for conv2d", "--allow-cpu-fallback")
        report = self.folder / "report.json"
        picture = self.draw(*ASCEND, "--allow-cpu-fallback", "--report", report, env=env)
        self.assert_same_picture(picture, self.draw("--device", "cpu", "--dtype", "float32"))
        vae = json.loads(report.read_text())["components"][3]
        self.assertRegex(vae["placement"], r"copies a run: \d+ to the device \(.* back \(")
        self.assertNotIn(" 0 on the CPU", vae["placement"])

    @unittest.skipUnless(shutil.which("mpirun"), "no MPI")
    def test_ranks_exchange_on_their_devices(self):
        def launch(*flags, ranks=2, device="ascend", **more):
            environment = with_ascend(**{"ASCEND_SIMULATOR_DEVICES": str(ranks), "TMPDIR": str(self.folder), **more})
            result = rondo("launch", "-n", ranks, "generate", "--prompt", "cat face", "--seed", 1, *QUICK, "--device",
                           device, "--dtype", "float32", "-o", self.folder / "ranks.png", *flags, **environment)
            return result, result.stderr.decode()

        alone = self.draw("--device", "cpu", "--dtype", "float32")

        def assert_drawn(result, words, most=1):
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertIn(words, result.stderr.decode())
            self.assert_same_picture([v for row in pixels(self.folder / "ranks.png") for v in row], alone, most)

        between = "messages: between devices (ascend:0, ascend:1"
        assert_drawn(launch("--ulysses-degree", 2)[0], between)
        assert_drawn(launch("--ring-degree", 2, "--ulysses-degree", 1)[0], between)
        assert_drawn(launch("--ring-degree", 2, "--ring-wire-dtype", "int8", "--ulysses-degree", 1)[0], between, most=40)
        assert_drawn(launch("--ring-degree", 2, "--ulysses-degree", 2, ranks=4)[0], between + ", ascend:2, ascend:3)")

        shared = "ranks 0 and 1 share ascend:0"
        # Two numbers may be one device.
        hidden = launch(ASCEND_RT_VISIBLE_DEVICES="5,5")
        self.assertIn("ranks 0 and 1 share ascend:1", hidden[1])
        for refused, error in [launch(ASCEND_SIMULATOR_DEVICES="1"), launch(device="ascend:0")]:
            self.assertEqual(refused.returncode, 1)
            self.assertIn(f"has no kernel for exchange (float32 [", error)
            self.assertIn(shared, error)
        assert_drawn(launch("--allow-cpu-fallback", device="ascend:0")[0], f"messages: over the CPU: {shared}")
        refused, error = launch(ASCEND_SIMULATOR_SOC="Ascend310P3")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("HCCL has no HcclBatchSendRecv on Atlas inference series (310P)", error)
        for fault in ("HcclCommInitRootInfo=19", "HcclGetRootInfo=7", "HcclBatchSendRecv=4:9"):
            failed, error = launch(ASCEND_SIMULATOR_FAULT=fault)
            self.assertEqual(failed.returncode, 1)
            self.assertRegex(error, rf"ascend:\d: {fault.split('=')[0]} failed with \d+ \(unknown error\): a fault that was asked for")

    def test_failures_of_the_device_are_told(self):
        def fails(fault, *parts):
            result = self.generate(*ASCEND, "-o", self.folder / "a.png", **with_ascend(ASCEND_SIMULATOR_FAULT=fault))
            self.assert_fails(result, 1, *parts)
            self.assertFalse((self.folder / "a.png").exists())

        fails("aclrtMalloc=207001:40", "ascend:0: out of memory: ", "are in use")
        fails("aclrtMalloc=507899:40", "ascend:0: aclrtMalloc failed with 507899: a fault that was asked for")
        fails("aclnnAddmm=561003:5", "ascend:0: aclnnAddmmGetWorkspaceSize failed with 561003")
        fails("aclnnAddmm.run=361001:30", "ascend:0: aclnnAddmm failed with 361001")
        fails("aclrtSynchronizeStream=507018:60", "ascend:0: aclrtSynchronizeStream failed with 507018")
        fails("aclrtMemcpyAsync=507899:30", "aclrtMemcpyAsync failed with 507899")
        fails("aclrtMallocHost=207001", "aclrtMallocHost failed with 207001")
        fails("aclrtCreateStream=207008:3", "aclrtCreateStream failed with 207008")
        fails("aclCreateTensor=1:9", "aclCreateTensor failed")

    def test_memory_limits(self):
        small = with_ascend(ASCEND_SIMULATOR_MEMORY="3000000")
        self.assert_fails(self.generate(*ASCEND, "-o", "/dev/null", **small), 1, "needs about", "are available")
        limited = with_ascend(RONDO_DEVICE_MEMORY_LIMIT="2MB")
        self.assert_fails(self.generate(*ASCEND, "-o", "/dev/null", **limited), 1, "needs about", "are available")
        self.assert_fails(self.generate(*ASCEND, "--memory-limit", "1MB", "-o", "/dev/null", **with_ascend()), 1, "needs about")
        # A second picture uses the buffers of the first.
        prompts = self.folder / "two.txt"
        prompts.write_text("cat\ndog\n")
        tight = with_ascend(ASCEND_SIMULATOR_MEMORY="48000000")
        drawn = rondo("generate", "--quiet", "--prompts-file", prompts, "--seed", 1, "--num-inference-steps", 1, "--lanes", 1,
                      *ASCEND, "-o", self.folder / "p.png", **tight)
        self.assertEqual(drawn.returncode, 0, drawn.stderr)
