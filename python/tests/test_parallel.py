"""rondo.ParallelAttention: on threads, and on processes that mpirun started."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

import numpy as np

import rondo

SCRIPT = """
import sys
import numpy as np
import rondo

with rondo.ParallelWorld.join_mpi() as world:
    attention = rondo.ParallelAttention(world, ring_degree=2)
    generator = np.random.default_rng(1)
    q, k, v = (generator.standard_normal((1, 20, 4, 16), dtype=np.float32) for _ in range(3))
    own = slice(10 * world.rank, 10 * world.rank + 10)
    if len(sys.argv) > 1 and world.rank == 1:
        raise KeyError("lost")
    out = attention(q[:, own], k[:, own], v[:, own], causal=True)
    expected = rondo.attention_forward(q, k, v, causal=True)[:, own]
    assert np.abs(out - expected).max() < 5e-6
"""


def on_ranks(counts, body, **degrees):
    """body(attention, slice of the tokens) on a thread a rank; the results, or what the first raised."""
    worlds, results, errors = rondo.ParallelWorld.threads(len(counts)), [None] * len(counts), []

    def run(rank, begin):
        try:
            with worlds[rank] as world:
                attention = rondo.ParallelAttention(world, **degrees)
                results[rank] = body(attention, slice(begin, begin + counts[rank]))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank, sum(counts[:rank]))) for rank in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


class ParallelTest(unittest.TestCase):
    def setUp(self):
        generator = np.random.default_rng(1)
        self.q, self.k, self.v = (generator.standard_normal((2, 21, n, 16), dtype=np.float32) for n in (4, 2, 2))

    def test_degrees(self):
        expected = rondo.attention_forward(self.q, self.k, self.v, causal=True)
        for counts, degrees in (([10, 11], {}), ([10, 11], {"ring_degree": 2}), ([3, 0, 8, 10], {"ulysses_degree": 2, "ring_degree": 2})):
            with self.subTest(counts=counts, degrees=degrees):
                parts = on_ranks(counts, lambda f, own: f(self.q[:, own], self.k[:, own], self.v[:, own], causal=True), **degrees)
                np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=5e-6)

    def test_lse(self):
        out, lse = rondo.attention_forward(self.q, self.k, self.v, return_lse=True)
        for degrees in ({}, {"ring_degree": 2}):
            parts = on_ranks([10, 11], lambda f, own: f(self.q[:, own], self.k[:, own], self.v[:, own], return_lse=True), **degrees)
            np.testing.assert_allclose(np.concatenate([part[0] for part in parts], axis=1), out, atol=5e-6)
            np.testing.assert_allclose(np.concatenate([part[1] for part in parts], axis=2), lse, atol=5e-6)
        cu = [0, 5, 21]
        parts = on_ranks([10, 11], lambda f, own: f.varlen(self.q[0, own], self.k[0, own], self.v[0, own], cu, return_lse=True))
        expected = np.concatenate([rondo.attention_forward(*(x[:1, a:b] for x in (self.q, self.k, self.v)), return_lse=True)[1][0]
                                   for a, b in ((0, 5), (5, 21))], axis=1)
        np.testing.assert_allclose(np.concatenate([part[1] for part in parts], axis=1), expected, atol=5e-6)

    def test_masks_and_layouts(self):
        mask = np.random.default_rng(2).standard_normal((1, 4, 21, 21), dtype=np.float32)
        q, k, v = (x.swapaxes(1, 2) for x in (self.q, self.k, self.v))
        expected = rondo.attention_forward(q, k, v, mask, input_layout="BNSD")
        parts = on_ranks([8, 13], lambda f, own: f(q[:, :, own], k[:, :, own], v[:, :, own], mask, input_layout="BNSD"), ring_degree=2)
        np.testing.assert_allclose(np.concatenate(parts, axis=2), expected, atol=5e-6)

    def test_varlen(self):
        q, k, v, cu = self.q[0], self.k[0], self.v[0], [0, 5, 5, 16, 21]
        for causal in (False, True):
            expected = rondo.attention_forward_varlen(q, k, v, cu, cu, causal=causal)
            parts = on_ranks([8, 13], lambda f, own: f.varlen(q[own], k[own], v[own], cu, causal=causal), ring_degree=2)
            np.testing.assert_allclose(np.concatenate(parts), expected, atol=5e-6)

    def test_refusals(self):
        with self.assertRaisesRegex(ValueError, "makes 3 ranks and the world has 2"):
            on_ranks([10, 11], lambda f, own: None, ulysses_degree=3)
        with self.assertRaisesRegex(NotImplementedError, "BSH"):
            on_ranks([10, 11], lambda f, own: f(self.q[:, own], self.k[:, own], self.v[:, own], input_layout="BSH"))
        with self.assertRaises((TypeError, RuntimeError)):
            on_ranks([10, 11], lambda f, own: f("q", "k", "v"))

    @unittest.skipUnless(shutil.which("mpirun"), "needs mpirun")
    def test_processes(self):
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "script.py"
            script.write_text(SCRIPT)
            command = ["mpirun", "-n", "2", "--oversubscribe", "--bind-to", "none", "--mca", "btl_vader_single_copy_mechanism", "none"]
            command += ["--allow-run-as-root"] if os.geteuid() == 0 else []
            done = subprocess.run([*command, sys.executable, script], capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            failed = subprocess.run([*command, sys.executable, script, "fail"], capture_output=True, text=True, timeout=60)
            self.assertNotEqual(failed.returncode, 0)
            self.assertRegex(failed.stderr, r"rank 1 \(pid \d+ on .*\) failed: KeyError: 'lost'")


if __name__ == "__main__":
    unittest.main()
