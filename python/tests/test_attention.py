"""rondo.attention on NumPy arrays, against float64; on torch tensors as well where torch is installed."""

import os
import subprocess
import sys
import threading
import unittest

import numpy as np

import rondo

try:
    import torch
except ImportError:
    torch = None


def reference(q, k, v, mask=None, scale=None, causal=False):
    """BSND in float64 -> out, lse."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    k, v = (np.repeat(x, group, axis=2) for x in (k, v))
    scores = np.einsum("bqnd,bknd->bnqk", q, k) * (1 / np.sqrt(q.shape[3]) if scale is None else scale)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        queries, keys = scores.shape[2:]
        scores = np.where(np.tril(np.ones((queries, keys), bool), keys - queries), scores, -np.inf)
    most = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isinf(most), 0, most))
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(total > 0, weights / total, 0)
        lse = (np.where(np.isinf(most), 0, most) + np.log(total))[..., 0]
    return np.einsum("bnqk,bknd->bqnd", weights, v), lse


class AttentionTest(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(1)

    def array(self, *shape, dtype=np.float32):
        return self.random.standard_normal(shape).astype(dtype)

    def near(self, actual, expected, error=1e-5):
        self.assertEqual(actual.shape, expected.shape)
        np.testing.assert_allclose(actual.astype(np.float64), expected, atol=error, rtol=error)

    def operands(self, dtype=np.float32):
        return self.array(2, 33, 6, 40, dtype=dtype), self.array(2, 129, 3, 40, dtype=dtype), self.array(2, 129, 3, 24, dtype=dtype)

    def test_needs_neither_torch_nor_numpy_to_import(self):
        code = "import rondo, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
        self.assertEqual(subprocess.run([sys.executable, "-c", code]).returncode, 0)

    def test_layouts(self):
        q, k, v = self.operands()
        expected, expected_lse = reference(q, k, v)
        out, lse = rondo.attention_forward(q, k, v, return_lse=True)
        self.near(out, expected)
        self.near(lse, expected_lse)
        swapped = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v)]
        self.near(rondo.attention_forward(*swapped, head_first=True).swapaxes(1, 2), expected)
        self.near(rondo.attention_forward(*swapped, input_layout="BNSD").swapaxes(1, 2), expected)
        self.near(rondo.attention_forward(*(x.swapaxes(1, 2) for x in swapped)), expected)  # strided views
        flat = [x.reshape(2, x.shape[1], -1) for x in (q, k, v)]
        self.near(rondo.attention_forward(*flat, input_layout="BSH", num_heads=6).reshape(expected.shape), expected)
        for layout in ("BNSD", "BSND", "BSH"):
            self.near(rondo.attention_forward(q, k, v, layout=layout), expected)

    def test_float16(self):
        q, k, v = self.operands(np.float16)
        out = rondo.attention_forward(q, k, v)
        self.assertEqual(out.dtype, np.float16)
        self.near(out, reference(q, k, v)[0], 2e-3)

    def test_masks_scale_and_causal(self):
        q, k, v = self.operands()
        for shape in ((2, 6, 33, 129), (1, 1, 33, 129), (2, 1, 1, 129), (1, 6, 33, 1)):
            keep = self.random.random(shape) > 0.4
            self.near(rondo.attention_forward(q, k, v, keep), reference(q, k, v, keep)[0])
            added = self.array(*shape)
            self.near(rondo.attention_forward(q, k, v, added, 0.3), reference(q, k, v, added, 0.3)[0])
        self.near(rondo.attention_forward(q, k, v, causal=True), reference(q, k, v, causal=True)[0])
        hidden = np.zeros((1, 1, 1, 129), bool)
        out, lse = rondo.attention_forward(q, k, v, hidden, return_lse=True)
        self.assertTrue((out == 0).all() and (lse == -np.inf).all())

    def test_varlen(self):
        cu_q, cu_k = [0, 5, 5, 33], [0, 40, 60, 129]
        q, k, v = (x[0] for x in self.operands())
        out, lse = rondo.attention_forward_varlen(q, k, v, np.array(cu_q, np.int32), cu_k, 28, 69, causal=True, return_lse=True)
        self.assertEqual(lse.shape, (6, 33))
        for i in range(3):
            parts = (q[cu_q[i]:cu_q[i + 1]], k[cu_k[i]:cu_k[i + 1]], v[cu_k[i]:cu_k[i + 1]])
            if len(parts[0]):
                expected, _ = reference(*(x[None] for x in parts), causal=True)
                self.near(out[cu_q[i]:cu_q[i + 1]], expected[0])
        with self.assertRaisesRegex(ValueError, "max_seqlen_q is 27"):
            rondo.attention_forward_varlen(q, k, v, cu_q, cu_k, 27)
        with self.assertRaisesRegex(ValueError, "cu_seqlens_q"):
            rondo.attention_forward_varlen(q, k, v, [0, 5, 34, 33], cu_k)
        with self.assertRaisesRegex(NotImplementedError, "dropout_p"):
            rondo.attention_forward_varlen(q, k, v, cu_q, cu_k, dropout_p=0.1)

    def test_merge(self):
        q, k, v = self.operands()
        whole, lse = rondo.attention_forward(q, k, v, return_lse=True)
        a = rondo.attention_forward(q, k[:, :50], v[:, :50], return_lse=True)
        b = rondo.attention_forward(q, k[:, 50:], v[:, 50:], return_lse=True)
        out, merged = rondo.merge_attention_states(*a, *b)
        self.near(out, whole)
        self.near(merged, lse)

    def test_backends(self):
        q, k, v = self.operands()
        answers = dict(rondo.attention_backends(q, k, v))
        self.assertIsNone(answers["flash"])
        self.assertIsNone(answers["reference"])
        self.assertIn("bfloat16", answers["onednn-bf16"])
        self.assertEqual(rondo.selected_attention_backend(q, k, v, opt_mode="static"), ("flash", "first that supports it"))
        self.assertEqual(rondo.selected_attention_backend(q, k, v, backend="reference"), ("reference", "the call"))
        with self.assertRaisesRegex(TypeError, "colour"):
            rondo.attention_backends(q, k, v, colour="red")
        expected = reference(q, k, v)[0]
        for call in ({"backend": "flash"}, {"opt_mode": "manual", "op_type": "reference"}, {"fused": False},
                     {"opt_mode": "static"}, {"threads": 2},
                     {"opt_mode": "manual", "op_type": "fused_attn_score", "layout": "BNSD"}):
            self.near(rondo.attention_forward(q, k, v, **call), expected)

    def test_quantised_on_the_way(self):
        q, k, v = (self.array(1, n, 2, 64) for n in (40, 300, 300))
        expected, expected_lse = reference(q, k, v)
        for dtype, tolerance in (("int8", 3e-2), ("fp8", 0.1)):
            self.assertIsNone(dict(rondo.attention_backends(q, k, v, kv_cache_dtype=dtype))[f"flash-{dtype}"])
            results = []
            for how in ({}, {"rotate": False}, {"smooth_k": False}):
                out, lse = rondo.attention_forward(q, k, v, kv_cache_dtype=dtype, return_lse=True, **how)
                self.near(out, expected, tolerance)
                self.near(lse, expected_lse, 2e-2)
                self.assertGreater(np.abs(out - expected).max(), 1e-4)
                self.assertTrue(all((out != other).any() for other in results))
                results.append(out)
            packed = rondo.attention_forward_varlen(q[0], k[0], v[0], [0, 40], [0, 300], kv_cache_dtype=dtype, smooth_k=True)
            self.near(packed, expected[0], tolerance)
            # What all keys have in common costs no precision, unless somebody says so.
            offset = k + 20 * self.array(2, 64)
            expected_there = reference(q, offset, v)[0]
            errors = [np.abs(rondo.attention_forward(q, offset, v, kv_cache_dtype=dtype, **how) - expected_there).max()
                      for how in ({}, {"smooth_k": True}, {"smooth_k": False})]
            self.assertEqual(errors[0], errors[1])
            self.assertLess(errors[0], tolerance)
            self.assertGreater(errors[2], 3 * errors[0])
        for kv_cache_dtype in ("fp4", ""):
            with self.assertRaisesRegex(ValueError, "kv_cache_dtype"):
                rondo.attention_forward(q, k, v, kv_cache_dtype=kv_cache_dtype)

    def test_refusals(self):
        q, k, v = self.operands()
        for error, part, call in (
            (TypeError, "float64", lambda: rondo.attention_forward(q.astype(np.float64), k, v)),
            (TypeError, "query builtins.list", lambda: rondo.attention_forward([1.0], k, v)),
            (ValueError, "do not fit", lambda: rondo.attention_forward(q, k[:1], v)),
            (ValueError, "the mask", lambda: rondo.attention_forward(q, k, v, np.ones((33, 129), bool))),
            (ValueError, "backend 'x'", lambda: rondo.attention_forward(q, k, v, backend="x")),
            ((NotImplementedError, ValueError), "onednn-bf16", lambda: rondo.attention_forward(q, k, v, backend="onednn-bf16")),
            (ValueError, "input_layout 'SBND'", lambda: rondo.attention_forward(q, k, v, input_layout="SBND")),
            (ValueError, "head_first=True means BNSD", lambda: rondo.attention_forward(q, k, v, head_first=True, input_layout="BSND")),
            (ValueError, "opt_mode 'fast'", lambda: rondo.attention_forward(q, k, v, opt_mode="fast")),
            (ValueError, "op_type", lambda: rondo.attention_forward(q, k, v, op_type="flash")),
            (ValueError, "needs op_type", lambda: rondo.attention_forward(q, k, v, opt_mode="manual")),
            (ValueError, "num_heads", lambda: rondo.attention_forward(q[..., 0], k[..., 0], v[..., 0], input_layout="BSH")),
            (TypeError, "head_first 'no'", lambda: rondo.attention_forward(q, k, v, head_first="no")),
            (TypeError, "causal 1", lambda: rondo.attention_forward(q, k, v, causal=1)),
            (ValueError, "backend ''", lambda: rondo.attention_forward(q, k, v, backend="")),
            (ValueError, "num_heads: 7", lambda: rondo.attention_forward(q, k, v, num_heads=7)),
            (ValueError, "scale: 1e\\+300", lambda: rondo.attention_forward(q, k, v, scale=1e300)),
            (ValueError, "threads: 'two'", lambda: rondo.attention_forward(q, k, v, threads="two")),
            (TypeError, "key builtins.NoneType", lambda: rondo.attention_forward(q, None, v)),
            (TypeError, "MaskedArray", lambda: rondo.attention_forward(q, k, v, np.ma.ones((1, 1, 33, 129), bool))),
            (TypeError, "positional", lambda: rondo.attention_forward(q, k, v, None, None, True)),
        ):
            with self.subTest(part=part), self.assertRaisesRegex(error, part):
                call()

    def test_concurrent_calls(self):
        q, k, v = self.operands()
        expected = rondo.attention_forward(q, k, v)
        results = [None] * 8

        def call(i):
            results[i] = rondo.attention_forward(q, k, v)

        threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            np.testing.assert_array_equal(result, expected)


class ThreadsTest(unittest.TestCase):
    def run_python(self, code, **environment):
        plain = {name: value for name, value in os.environ.items() if name not in ("RONDO_THREADS", "OMP_NUM_THREADS")}
        result = subprocess.run([sys.executable, "-c", code], env={**plain, **environment}, capture_output=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        return result.stdout.decode().split()

    def test_a_forked_child_is_told(self):
        code = """
import os, numpy as np, rondo
q = np.ones((1, 64, 2, 16), dtype=np.float32)
rondo.attention_forward(q, q, q, threads=2)
child = os.fork()
if child == 0:
    try:
        rondo.attention_forward(q, q, q, threads=2)
    except RuntimeError as error:
        alone = rondo.attention_forward(q, q, q, threads=1)
        os._exit(0 if "by spawn" in str(error) and np.allclose(alone, 1) else 4)
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        self.assertEqual(self.run_python(code), ["0"])

    def test_threads_started_are_those_that_are_set(self):
        code = """
import os, numpy as np, rondo
q = np.ones((1, 64, 2, 16), dtype=np.float32)
before = len(os.listdir("/proc/self/task"))
rondo.attention_forward(q, q, q)
print(len(os.listdir("/proc/self/task")) - before)
"""
        for environment, threads in (({"OMP_NUM_THREADS": "3"}, 3), ({"OMP_NUM_THREADS": "3", "RONDO_THREADS": "2"}, 2),
                                     ({"RONDO_THREADS": "4", "OMP_THREAD_LIMIT": "2"}, 2), ({"OMP_NUM_THREADS": "1"}, 1)):
            with self.subTest(environment=environment):
                self.assertEqual(self.run_python(code, **environment), [str(threads - 1)])

    @unittest.skipIf(torch is None, "torch is not installed")
    def test_torch_tensors_take_torch_s_threads(self):
        code = """
import torch
from rondo._arrays import Operands
torch.set_num_threads(3)
x = torch.ones(2)
print(*(Operands("f", x=array).thread_count(threads) for array, threads in ((x, None), (x.numpy(), None), (x, 5))))
"""
        self.assertEqual(self.run_python(code), ["3", "0", "5"])
        self.assertEqual(self.run_python(code, RONDO_THREADS="2"), ["0", "0", "5"])


@unittest.skipIf(torch is None, "torch is not installed")
class TorchTest(unittest.TestCase):
    def test_against_scaled_dot_product_attention(self):
        torch.manual_seed(1)
        for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
            q, k, v = (torch.randn(2, 4, s, 64).to(dtype) for s in (33, 129, 129))
            mask = torch.rand(2, 1, 33, 129) > 0.3
            expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
            out = rondo.attention_forward(q, k, v, mask, head_first=True)
            self.assertEqual(out.dtype, dtype)
            self.assertLess((out.float() - expected).abs().max().item(), error)

    def test_grad_and_mixtures_are_refused(self):
        q = torch.randn(1, 4, 2, 8, requires_grad=True)
        with self.assertRaisesRegex(RuntimeError, "requires grad"):
            rondo.attention_forward(q, q, q)
        with torch.no_grad():
            self.assertFalse(rondo.attention_forward(q, q, q).requires_grad)
        with self.assertRaises(TypeError):
            rondo.attention_forward(q.detach(), q.detach().numpy(), q.detach())


if __name__ == "__main__":
    unittest.main()
