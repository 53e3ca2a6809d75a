"""Several ranks on one picture: whatever the degrees, it is the picture of one rank; what goes wrong on one ends all."""

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

from support import EMOJI, ROOT, RONDO, CommandTest, pixels, rondo

sys.path.insert(0, str(ROOT / "bench"))
import network_hosts

STEPS = ["--prompt", "cat face", "--seed", 1, "--num-inference-steps", 3, "--true-cfg-scale", 2, "--dtype", "f32"]


def launch(ranks, *arguments, **more):
    return rondo("launch", "-n", ranks, *arguments, **more)


def has_mpi():
    return shutil.which("mpirun") is not None and b"no MPI" not in launch(1, "--dry-run", "generate").stderr


def descendants(pid):
    """The processes that a process started, and those that they did."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


@unittest.skipUnless(has_mpi(), "needs mpirun")
class ParallelTest(CommandTest):
    def draw(self, *flags, ranks=1, count=1):
        path = self.folder / "{index}.png"
        report = self.folder / "report.json"
        verb = ("generate", "--quiet", *STEPS, "--num-images-per-prompt", count, "-o", path, "--report", report, *flags)
        result = rondo(*verb) if ranks == 1 else launch(ranks, *verb)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.notes = " ".join(json.loads(report.read_text())["notes"])
        return [[v for row in pixels(self.folder / f"{i}.png") for v in row] for i in range(count)]

    def assert_same(self, given, expected):
        self.assertEqual(len(given), len(expected))
        self.assertLessEqual(max(abs(a - b) for a, b in zip(given, expected)), 1)

    def test_dashes_before_the_command_change_nothing(self):
        plain = launch(2, "--dry-run", "generate", "-p", "a b", "--width", 64)
        dashes = launch(2, "--dry-run", "--", "generate", "-p", "a b", "--width", 64)
        self.assertEqual(dashes.returncode, 0, dashes.stderr)
        self.assertEqual(dashes.stdout, plain.stdout)
        self.assertTrue(dashes.stdout.decode().endswith("generate -p 'a b' --width 64\n"), dashes.stdout)
        result = launch(2, "--", "generate", "--quiet", *STEPS, "-o", self.folder / "a.png")
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_degrees_keep_the_picture(self):
        for size in ((), ("--width", 80, "--height", 48)):
            alone = self.draw(*size)[0]
            for ranks, flags in ((2, ()), (2, ("--ring-degree", 2)), (3, ("--ulysses-degree", 3)), (3, ("--ring-degree", 3)),
                                 (4, ()), (4, ("--ring-degree", 4)), (4, ("--ring-degree", 2)),
                                 (2, ("--cfg-parallel",)), (4, ("--cfg-parallel", "--ulysses-degree", 2)),
                                 (4, ("--ring-degree", 2, "--parallel-text", "replicated"))):
                with self.subTest(size=size, ranks=ranks, flags=flags):
                    self.assert_same(self.draw(*size, *flags, ranks=ranks)[0], alone)
                    self.assertRegex(self.notes, r"peak memory:( [\d.]+ MB){%d} " % ranks)

    def test_accelerations_keep_the_picture(self):
        for flags in (("--no-compile",), ("--cfg-fusion", "off")):
            alone = self.draw(*flags)[0]
            for degrees in (("--ulysses-degree", 2), ("--ring-degree", 2)):
                with self.subTest(flags=flags, degrees=degrees):
                    self.assert_same(self.draw(*flags, *degrees, ranks=2)[0], alone)
        # A last bit of difference turns some values to the next of 8 bits; a ring quantises keys in other blocks.
        for flags in (("--quantize", "w8a8"), ("--kv-cache-dtype", "int8"), ("--kv-cache-dtype", "fp8")):
            alone = self.draw(*flags)[0]
            for degrees in (("--ulysses-degree", 2), ("--ring-degree", 2)):
                with self.subTest(flags=flags, degrees=degrees):
                    given = self.draw(*flags, *degrees, ranks=2)[0]
                    squares = sum((a - b) ** 2 for a, b in zip(given, alone)) / len(alone)
                    self.assertGreater(10 * math.log10(255**2 / max(squares, 1e-9)), 40)

    def test_fewer_bytes_round_the_ring(self):
        alone = self.draw()[0]
        for wire, least in (("auto", 60), ("bfloat16", 45), ("int8", 40)):
            given = self.draw("--ring-degree", 2, "--ring-wire-dtype", wire, ranks=2)[0]
            squares = sum((a - b) ** 2 for a, b in zip(given, alone)) / len(alone)
            self.assertGreater(10 * math.log10(255**2 / max(squares, 1e-9)), least)

    def test_what_memory_decides_is_the_same_on_all_ranks(self):
        # Near the limit, where each rank alone would decide by a few pages whether branches fit into one run.
        for limit in ("103MB", "107MB", "109MB", "111MB", "115MB"):
            result = launch(2, "generate", "-q", *STEPS, "--num-inference-steps", 1, "--width", 512, "--height", 512,
                            "--memory-limit", limit, "-o", self.folder / "a.png")
            self.assertIn(result.returncode, (0, 1), result.stderr)
            if result.returncode != 0:
                self.assertRegex(result.stderr.decode(), "size: 512 x 512 needs about|limit")

    def test_prompts_file(self):
        prompts = self.folder / "prompts.txt"
        prompts.write_text("cat face\nred heart\n")
        pictures = []
        for run in (rondo, lambda *command: launch(2, *command)):
            result = run("generate", "-q", *STEPS[2:], "--prompts-file", prompts, "-o", self.folder / "{index}.png")
            self.assertEqual(result.returncode, 0, result.stderr)
            pictures.append([[v for row in pixels(self.folder / f"{i}.png") for v in row] for i in range(2)])
        for given, expected in zip(*pictures):
            self.assert_same(given, expected)

    def test_data_parallel(self):
        alone = self.draw(count=3)
        for ranks, flags in ((2, ()), (4, ("--cfg-parallel",)), (4, ("--ulysses-degree", 2)), (5, ())):
            with self.subTest(ranks=ranks, flags=flags):
                for given, expected in zip(self.draw("--data-parallel", *flags, ranks=ranks, count=3), alone):
                    self.assert_same(given, expected)

    def test_hosts_with_links_between_them(self):
        reason = network_hosts.refusal()
        if reason:
            self.skipTest(f"no hosts in network namespaces: {reason}")
        alone = self.draw()[0]
        with network_hosts.NetworkHosts(4) as hosts:
            hosts.limit(1)
            for degrees in ((4, 1), (1, 4), (2, 2)):
                path = self.folder / "hosts.png"
                verb = ("generate", "-q", *STEPS, "-o", path, "--ulysses-degree", degrees[0], "--ring-degree", degrees[1])
                result = subprocess.run(hosts.mpirun(4, [RONDO, *verb]), capture_output=True, timeout=60)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assert_same([v for row in pixels(path) for v in row], alone)

    def test_groups_are_printed_at_the_start(self):
        result = launch(4, "generate", *STEPS, "--cfg-parallel", "-o", self.folder / "a.png")
        self.assertIn("cfg: [0, 2] [1, 3]\nulysses: [0, 1] [2, 3]\nsequence: [0, 1] [2, 3]\n", result.stderr.decode())
        self.assertEqual(result.stderr.decode().count("denoise: step 3/3"), 1)

    def test_a_drawn_seed_is_the_same_on_all_ranks(self):
        result = launch(2, "generate", "--quiet", "-p", "x", "--num-inference-steps", 1, "-o", self.folder / "a.png")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr.decode().count("seed: "), 1, result.stderr)

    def test_plan(self):
        def plan(*flags):
            result = rondo("plan", "parallel", "--ranks", 4, "--linear-gflops", 400, "--attention-gflops", 400, "--memory-bandwidth", 20,
                           "--json", *flags)
            self.assertEqual(result.returncode, 0, result.stderr)
            return json.loads(result.stdout)

        fast, slow = plan("--bandwidth", "100Gb"), plan("--bandwidth", "50Mb")
        for result in (fast, slow):
            self.assertEqual({(w["ulysses_degree"], w["ring_degree"]) for w in result["ways"]}, {(4, 1), (2, 2), (1, 4)})
            times = [w["seconds"] for w in result["ways"]]
            self.assertLessEqual(times[0], min(times) * 1.01)
            for way in result["ways"]:
                self.assertAlmostEqual(way["seconds"], way["seconds_compute"] + way["seconds_ulysses"] + way["seconds_ring"])
        self.assertGreater(fast["seconds_alone"] / fast["ways"][0]["seconds"], 3.5)
        # Ulysses sends less, a ring hides what it sends.
        self.assertEqual((slow["ways"][0]["ulysses_degree"], fast["ways"][0]["ring_degree"]), (4, 4))
        self.assertEqual(len(plan("--branches", 2)["ways"]), 5)
        self.assert_fails(rondo("plan", "parallel", "--bandwidth", "fast"), 2, "--bandwidth: 'fast'", "25Gb")
        self.assert_fails(rondo("plan", "parallel", "--model", "sd3"), 2, "--model: 'sd3'", "flux.1-dev")
        self.assert_fails(rondo("plan", "parallel", "--ranks", 0), 2, "--ranks: 0")

    def assert_refused(self, result, *parts):
        error = result.stderr.decode()
        self.assertNotEqual(result.returncode, 0, error)
        self.assertEqual(result.stdout, b"")
        for part in parts:
            self.assertIn(part, error)
        self.assertEqual(list(self.folder.glob("*.png")), [])

    def test_refusals(self):
        output = ("-o", self.folder / "a.png")
        verb = ("generate", "-q", *STEPS, *output)
        self.assert_refused(launch(3, *verb, "--ulysses-degree", 2), "makes 2 ranks and the world has 3")
        self.assert_refused(launch(2, *verb, "--ring-degree", 4), "ring 4")
        self.assert_refused(launch(2, *verb, "--lanes", 2, "--threads", 2), "lanes: 2 are asked for in a run of several ranks")
        self.assert_refused(launch(2, *verb, "--cfg-parallel", "--true-cfg-scale", 1), "cfg-parallel: this request has one branch")
        self.assert_refused(launch(2, *verb, "--attention-backend", "onednn-bf16", "--ring-degree", 2), "onednn-bf16")
        self.assert_refused(rondo(*verb, "--ulysses-degree", 2), "rondo launch -n 2 starts them")
        self.assert_refused(rondo("launch", *verb), "-n: is missing")
        self.assert_refused(rondo("launch", "-n", 0, *verb), "-n: 0 is given")
        self.assert_refused(rondo("launch", "-n", 2), "what to run is missing")
        self.assert_refused(launch(2, "inspect"), "'inspect' does not run on several ranks")
        self.assert_refused(launch(2, *verb, "-p", ":"), "':' alone separates")
        self.assert_refused(launch(2, "bench", "step", "--cfg-parallel"), "one step is measured")
        broken = {**os.environ, "PMI_RANK": "abc", "PMI_SIZE": "2"}
        self.assert_refused(rondo(*verb, env=broken), "PMI_RANK: 'abc' is given")
        self.assert_refused(rondo(*verb, "--rank-timeout", 0), "--rank-timeout: 0 is given")
        self.assert_refused(launch(2, *verb, "--ring-wire-dtype", "int8"), "--ring-wire-dtype: is given without --ring-degree")

    def run_unlike(self, first, second):
        """Two ranks with flags of their own."""
        return self.run_apart(*(("generate", "-q", *STEPS, "-o", self.folder / "a.png", *flags) for flags in (first, second)))

    def run_apart(self, *commands):
        """A rank for each command."""
        mpirun = shlex.split(launch(len(commands), "--bind-to", "none", "--dry-run", *commands[0]).stdout.decode())
        at = mpirun.index("-n")
        common = mpirun[:at] + mpirun[at + 2:mpirun.index(os.path.realpath(RONDO))]
        programs = []
        for command in commands:
            programs += [*([":"] if programs else []), "-n", "1", RONDO, *map(str, command)]
        return subprocess.run([*common, *programs], capture_output=True, timeout=60)

    def test_ranks_that_differ_are_named(self):
        self.assert_refused(self.run_unlike((), ("--seed", 2)), "rank 1 has seed '2' and rank 0 '1'")
        self.assert_refused(self.run_unlike((), ("--dtype", "bf16")), "rank 1 has dtype 'bfloat16' and rank 0 'float32'")
        self.assert_refused(self.run_unlike((), ("--quantize", "w8a8")), "rank 1 has quantize ")
        self.assert_refused(self.run_unlike((), ("--memory-limit", "2GB")), "rank 1 has memory-limit '2 GB' and rank 0 'unset'")
        unseeded = ("generate", "-q", "-p", "x", "--num-inference-steps", 1, "-o", self.folder / "a.png")
        self.assert_refused(self.run_apart(unseeded, (*unseeded, "--seed", 1)), "rank 1 has seed '1' and rank 0 'unset'")
        lists = [self.folder / "2.txt", self.folder / "3.txt"]
        lists[0].write_text("a\nb\n")
        lists[1].write_text("a\nb\nc\n")
        prompts = [("generate", "-q", "--prompts-file", path, "--seed", 1, "-o", self.folder / "{index}.png") for path in lists]
        self.assert_refused(self.run_apart(*prompts), "rank 1 has prompts-file '3 prompts")
        step = ("bench", "step", "--preset", "emoji", "--width", 64, "--height", 64, "--text-tokens", 8)
        self.assert_refused(self.run_apart((*step, "--runs", 1), (*step, "--runs", 2)), "rank 1 has step ")
        model = self.copy_model()
        self.edit_config(model, "scheduler", shift=2.5)
        self.assert_refused(self.run_unlike(("--model", EMOJI), ("--model", model)), "rank 1 has model ")

    def start_long_run(self, *flags, **env):
        process = subprocess.Popen([RONDO, "launch", "-n", "3", "generate", "-q", *map(str, STEPS), "--num-inference-steps", "1000",
                                    "-o", str(self.folder / "a.png"), *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env={**os.environ, **env})
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            ranks = [p for p in descendants(process.pid) if os.path.realpath(f"/proc/{p}/exe") == os.path.realpath(RONDO)]
            if len(ranks) == 3:
                time.sleep(0.5)  # past the start
                return process, ranks
            time.sleep(0.05)
        self.fail("the ranks did not start")

    @staticmethod
    def is_running(rank):
        try:
            return "(rondo) Z" not in Path(f"/proc/{rank}/stat").read_text()
        except OSError:  # gone
            return False

    def assert_all_end(self, process, ranks, *parts):
        started = time.monotonic()
        _, error = process.communicate(timeout=30)
        self.assertLess(time.monotonic() - started, 10)
        self.assertNotEqual(process.returncode, 0)
        for part in parts:
            self.assertRegex(error.decode(), part)
        # The launcher does not wait for a rank that is still dying.
        while running := [rank for rank in ranks if self.is_running(rank)]:
            self.assertLess(time.monotonic() - started, 10, f"ranks {running} go on")
            time.sleep(0.05)
        self.assertEqual(list(self.folder.glob("*.png*")), [])

    def test_a_killed_rank_ends_all(self):
        process, ranks = self.start_long_run()
        os.kill(ranks[1], signal.SIGKILL)
        self.assert_all_end(process, ranks, r"process rank \d .*signal 9")

    def test_a_lost_rank_ends_those_that_wait_on_their_devices(self):
        simulator = Path(os.environ["RONDO_TEST_LIBRARIES"]) / "ascend_simulator"
        on_devices = {"LD_LIBRARY_PATH": str(simulator), "ASCEND_SIMULATOR_DEVICES": "3", "TMPDIR": str(self.folder)}
        process, ranks = self.start_long_run("--device", "ascend", **on_devices)
        os.kill(ranks[1], signal.SIGKILL)
        self.assert_all_end(process, ranks, r"process rank \d .*signal 9")
        process, ranks = self.start_long_run("--device", "ascend", "--rank-timeout", "3", **on_devices)
        os.kill(ranks[1], signal.SIGSTOP)
        self.assert_all_end(process, ranks, rf"rank \d \(pid {ranks[1]} on .*\) gave no sign of life for 3 s")

    def test_a_stopped_rank_ends_all(self):
        process, ranks = self.start_long_run("--rank-timeout", "3")
        os.kill(ranks[1], signal.SIGSTOP)
        self.assert_all_end(process, ranks, rf"rank \d \(pid {ranks[1]} on .*\) gave no sign of life for 3 s")

    def test_an_ended_launcher_ends_all(self):
        process, ranks = self.start_long_run()
        process.terminate()
        self.assert_all_end(process, ranks)


if __name__ == "__main__":
    unittest.main()
