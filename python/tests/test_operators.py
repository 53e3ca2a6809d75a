"""The operators beside attention on NumPy arrays, against float64; on torch tensors as well where torch is installed."""

import types
import unittest

import numpy as np

import rondo

try:
    import torch
except ImportError:
    torch = None


def rms(x, weight=1.0, eps=1e-6):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def layer(x, weight=1.0, bias=0.0, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def rotate(x, cos, sin, interleaved):
    """BSND"""
    if interleaved:
        turned = np.stack((-x[..., 1::2], x[..., ::2]), -1).reshape(x.shape)
    else:
        half = x.shape[-1] // 2
        turned = np.concatenate((-x[..., half:], x[..., :half]), -1)
    return x * cos[None, :, None] + turned * sin[None, :, None]


class OperatorsTest(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(1)

    def array(self, *shape):
        return self.random.standard_normal(shape).astype(np.float32)

    def near(self, actual, expected, error=2e-5):
        self.assertEqual(actual.shape, expected.shape)
        np.testing.assert_allclose(actual.astype(np.float64), expected, atol=error, rtol=error)

    def test_norms(self):
        x, residual, weight, bias = self.array(2, 9, 72), self.array(2, 9, 72), self.array(72), self.array(72)
        wide = x.astype(np.float64)
        self.near(rondo.rms_norm(x), rms(wide))
        self.near(rondo.rms_norm(x, weight, 1e-3), rms(wide, weight, 1e-3))
        self.near(rondo.layer_norm(x, weight, bias), layer(wide, weight, bias))
        normed, total = rondo.add_rms_norm(x, residual, weight)
        self.near(normed, rms(wide + residual, weight))
        self.near(total, wide + residual)
        scale, shift = self.array(2, 72), self.array(2, 1, 72)
        norm = types.SimpleNamespace(weight=weight, bias=None, eps=1e-5)
        expected = layer(wide, weight) * (1 + scale[:, None]) + shift
        self.near(rondo.layernorm_scale_shift(norm, x, scale, shift), expected)
        self.near(rondo.layernorm_scale_shift(norm, x, scale, shift, False), expected)
        gate = self.array(2, 9, 72)
        self.near(rondo.residual_gate_add(x, residual, gate), x + residual.astype(np.float64) * gate)

    def test_rotary(self):
        x, cos, sin = self.array(2, 9, 3, 24), self.array(9, 24), self.array(9, 24)
        wide = x.astype(np.float64)
        for mode, interleaved in (("rotated_half", False), ("rotated_interleaved", True)):
            expected = rotate(wide, cos, sin, interleaved)
            for fused in (True, False):
                self.near(rondo.rotary_position_embedding(x, cos, sin, mode, False, fused), expected)
            swapped = x.swapaxes(1, 2)
            self.near(rondo.rotary_position_embedding(swapped, cos, sin, mode, True), expected.swapaxes(1, 2))
            for shape, axes in (((1, 9, 1, 24), (0, 1, 2, 3)), ((1, 1, 9, 24), (0, 2, 1, 3)), ((9, 1, 1, 24), (1, 0, 2, 3))):
                out = rondo.rotary_position_embedding(x.transpose(axes), cos.reshape(shape), sin.reshape(shape), mode)
                self.near(out, expected.transpose(axes))
            q, k = rondo.qk_norm_rope(x, x[:, :, :1], cos[0], None, cos, sin, rotated_mode=mode, threads=2)
            self.near(q, rotate(rms(wide, cos[0]), cos, sin, interleaved))
            self.near(k, rotate(rms(wide[:, :, :1]), cos, sin, interleaved))

    def test_activations(self):
        x = self.array(5, 40) * 4
        wide = x.astype(np.float64)
        sigmoid = 1 / (1 + np.exp(-wide))
        self.near(rondo.activation(x, "SiLU"), wide * sigmoid)
        self.near(rondo.activation(x, "relu"), np.maximum(wide, 0))
        self.near(rondo.activation(x, "mish"), wide * np.tanh(np.log1p(np.exp(wide))))
        self.near(rondo.activation(x, "gelu-fast"), wide / (1 + np.exp(-1.702 * wide)))
        tanh = np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))
        self.near(rondo.activation(x, "gelu-tanh"), 0.5 * wide * (1 + tanh))
        self.near(rondo.swiglu(x), wide[:, :20] * (wide * sigmoid)[:, 20:])

    def test_float16(self):
        x = self.array(5, 40).astype(np.float16)
        out = rondo.rms_norm(x)
        self.assertEqual(out.dtype, np.float16)
        self.near(out, rms(x.astype(np.float64)), 2e-3)

    def test_refusals(self):
        x = self.array(2, 9, 3, 24)
        for error, part, call in (
            (ValueError, "rotated_mode 'x'", lambda: rondo.rotary_position_embedding(x, x[0, :, 0], x[0, :, 0], "x")),
            (ValueError, "do not fit", lambda: rondo.rotary_position_embedding(x, x[0, :8, 0], x[0, :8, 0])),
            (ValueError, "do not fit", lambda: rondo.rms_norm(x, x[0, 0, 0, :23])),
            (ValueError, "'tanh' is given", lambda: rondo.activation(x, "tanh")),
            (ValueError, "2 F", lambda: rondo.swiglu(x[..., :23])),
            (ValueError, "threads: 0", lambda: rondo.rms_norm(x, threads=0)),
            (TypeError, "float64", lambda: rondo.rms_norm(x.astype(np.float64))),
            (TypeError, "builtins.int", lambda: rondo.rms_norm(3)),
            (TypeError, "no weight, bias, eps", lambda: rondo.layernorm_scale_shift(object(), x[0], x[0], x[0])),
        ):
            with self.subTest(part), self.assertRaisesRegex(error, part):
                call()


@unittest.skipIf(torch is None, "torch is not installed")
class TorchTest(unittest.TestCase):
    def test_layers(self):
        torch.manual_seed(1)
        for dtype, error in ((torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
            x = torch.randn(2, 9, 64).to(dtype)
            norm = rondo.RMSNorm(64).to(dtype)
            with self.assertRaisesRegex(RuntimeError, "requires grad"):
                norm(x)
            with torch.no_grad():
                norm.weight.copy_(torch.randn(64))
                expected = torch.nn.functional.rms_norm(x.float(), (64,), norm.weight.float(), 1e-6)
                for fused in (True, False):
                    out = norm(x, fused)
                    self.assertEqual(out.dtype, dtype)
                    torch.testing.assert_close(out.float(), expected, atol=error, rtol=error)
            for name, function in (("gelu", torch.nn.functional.gelu), ("Swish", torch.nn.functional.silu),
                                   ("mish", torch.nn.functional.mish), ("relu", torch.relu)):
                out = rondo.get_activation_layer(name)(x)
                torch.testing.assert_close(out.float(), function(x.float()), atol=error, rtol=error)
        with self.assertRaisesRegex(ValueError, "'tanh' is given"):
            rondo.get_activation_layer("tanh")
        self.assertEqual(list(rondo.RMSNorm(8).state_dict()), ["weight"])


if __name__ == "__main__":
    unittest.main()
