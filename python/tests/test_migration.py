"""The pairs of docs/migration.md: what stands after must give what stands before. Needs torch.

flash-attn and MindIE-SD need devices of their own; in their place stand their formulas in plain torch.
"""

import re
import sys
import types
import unittest
from pathlib import Path
from unittest import mock

try:
    import torch
except ImportError:
    torch = None

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "migration.md"


def attend(q, k, v, mask=None, scale=None, causal=False):
    """BSND, in float64; causal is aligned at the bottom right."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(scores.shape[-1] - scores.shape[-2])
        scores = scores.masked_fill(~keep, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).float()


def attend_varlen(q, k, v, cu_q, cu_k, causal):
    parts = zip(cu_q, cu_q[1:], cu_k, cu_k[1:])
    return torch.cat([attend(q[None, a:b], k[None, c:d], v[None, c:d], causal=causal)[0] for a, b, c, d in parts])


def stand_ins():
    mindie = types.ModuleType("mindiesd")
    mindie.attention_forward = lambda q, k, v, attn_mask=None, scale=None, **rest: attend(q, k, v, attn_mask, scale)
    mindie.attention_forward_varlen = lambda q, k, v, cu_q, cu_k, causal=False: attend_varlen(q, k, v, cu_q, cu_k, causal)

    def rotary(x, cos, sin, rotated_mode, head_first, fused):
        pairs = x.unflatten(-1, (-1, 2))
        turned = torch.stack((-pairs[..., 1], pairs[..., 0]), -1).flatten(-2)
        return x * cos[None, :, None] + turned * sin[None, :, None]

    mindie.rotary_position_embedding = rotary
    mindie.RMSNorm = torch.nn.RMSNorm
    mindie.layernorm_scale_shift = lambda norm, x, scale, shift, fused: norm(x) * (1 + scale[:, None]) + shift[:, None]
    mindie.get_activation_layer = lambda name: torch.nn.GELU(approximate="tanh")
    flash = types.ModuleType("flash_attn")
    flash.flash_attn_func = lambda q, k, v, softmax_scale=None, causal=False: attend(q, k, v, None, softmax_scale, causal)
    flash.flash_attn_varlen_func = lambda q, k, v, a, b, c, d, causal=False: attend_varlen(q, k, v, a, b, causal)
    return {"mindiesd": mindie, "flash_attn": flash}


@unittest.skipIf(torch is None, "torch is not installed")
class MigrationTest(unittest.TestCase):
    def test_every_pair_agrees(self):
        blocks = re.findall(r"^```python (before|after)\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)
        self.assertGreaterEqual(len(blocks), 20)
        self.assertEqual([kind for kind, _ in blocks], ["before", "after"] * (len(blocks) // 2))
        torch.manual_seed(1)
        values = {
            "torch": torch,
            "q": torch.randn(1, 40, 4, 64), "k": torch.randn(1, 40, 4, 64), "v": torch.randn(1, 40, 4, 64),
            "mask": torch.rand(1, 1, 40, 40) > 0.3,
            "cu_seqlens": torch.tensor([0, 7, 7, 40], dtype=torch.int32), "longest": 33,
            "cos": torch.randn(40, 64), "sin": torch.randn(40, 64),
            "hidden": torch.randn(2, 40, 256), "scale": torch.randn(2, 256), "shift": torch.randn(2, 256),
        }  # fmt: skip
        with torch.no_grad(), mock.patch.dict(sys.modules, stand_ins()):
            for (_, before), (_, after) in zip(blocks[::2], blocks[1::2]):
                results = []
                for code in (before, after):
                    scope = dict(values)
                    exec(code, scope)  # the document is ours
                    results.append(scope["out"])
                with self.subTest(after):
                    self.assertIn("rondo", after)
                    torch.testing.assert_close(results[1], results[0], atol=2e-5, rtol=2e-5)


@unittest.skipIf(torch is None, "torch is not installed")
class CompatTest(unittest.TestCase):
    def test_scaled_dot_product_attention(self):
        from rondo.compat import scaled_dot_product_attention as ours

        theirs = torch.nn.functional.scaled_dot_product_attention
        torch.manual_seed(2)

        def operands(*outer, heads=4, key_heads=4, queries=9, keys=17):
            return (torch.randn(*outer, n, s, 24) for n, s in ((heads, queries), (key_heads, keys), (key_heads, keys)))

        for outer in ((), (2,), (2, 3), (0,)):
            q, k, v = operands(*outer)
            for more in ({}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.rand(9, 17) > 0.3},
                         {"attn_mask": torch.randn(4, 9, 17)}, {"attn_mask": torch.randn(*outer, 1, 9, 17)}):
                with self.subTest(outer=outer, more=more.keys()):
                    torch.testing.assert_close(ours(q, k, v, **more), theirs(q, k, v, **more), atol=2e-5, rtol=2e-5)
        q, k, v = operands(2, key_heads=2)
        torch.testing.assert_close(ours(q, k, v, enable_gqa=True), theirs(q, k, v, enable_gqa=True), atol=2e-5, rtol=2e-5)
        with self.assertRaisesRegex(ValueError, "enable_gqa"):
            ours(q, k, v)
        q, k, v = operands(2)
        for error, part, more in ((NotImplementedError, "dropout_p 0.5", {"dropout_p": 0.5}),
                                  (ValueError, "is_causal and a mask", {"is_causal": True, "attn_mask": torch.zeros(9, 17)}),
                                  (ValueError, "mask", {"attn_mask": torch.zeros(9, 16)})):
            with self.subTest(part), self.assertRaisesRegex(error, part):
                ours(q, k, v, **more)

    def test_flash_attn_refuses_what_it_lacks(self):
        from rondo.compat import flash_attn_func, flash_attn_varlen_func

        q = torch.randn(1, 5, 2, 8)
        for name, value in (("dropout_p", 0.1), ("window_size", (4, 4)), ("softcap", 3.0),
                            ("alibi_slopes", torch.ones(2)), ("return_attn_probs", True)):
            with self.subTest(name), self.assertRaisesRegex(NotImplementedError, name):
                flash_attn_func(q, q, q, **{name: value})
        with self.assertRaisesRegex(NotImplementedError, "block_table"):
            flash_attn_varlen_func(q[0], q[0], q[0], [0, 5], [0, 5], 5, 5, block_table=torch.ones(1))
        self.assertEqual(flash_attn_func(q, q, q, deterministic=True).shape, q.shape)


if __name__ == "__main__":
    unittest.main()
