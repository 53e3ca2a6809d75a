"""rondo.diffusers under a real FLUX pipeline: the bundled model. Needs torch and diffusers."""

import logging
import unittest
from pathlib import Path
from unittest import mock

try:
    import diffusers
    import torch
except ImportError:
    diffusers = None

MODEL = Path(__file__).resolve().parents[2] / "models" / "emoji"


@unittest.skipIf(diffusers is None, "torch and diffusers are not installed")
class DiffusersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import rondo.diffusers

        cls.bridge = rondo.diffusers
        cls.pipe = diffusers.FluxPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
        cls.pipe.set_progress_bar_config(disable=True)

    def setUp(self):
        from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

        self.addCleanup(_AttentionBackendRegistry.set_active_backend, AttentionBackendName.NATIVE)
        self.addCleanup(self.pipe.transformer.reset_attention_backend)
        self.addCleanup(self.bridge.disable, self.pipe)

    def draw(self):
        return torch.from_numpy(
            self.pipe(
                "cat face", height=64, width=64, num_inference_steps=4, output_type="np",
                generator=torch.Generator().manual_seed(1),
            ).images[0]
        )  # fmt: skip

    def counted(self, name):
        function = getattr(self.bridge, name)
        return mock.patch.object(self.bridge, name, side_effect=function)

    def test_same_picture_and_everything_put_back(self):
        transformer = self.pipe.transformer
        before = self.draw()
        module = diffusers.models.transformers.transformer_flux
        rotation, norm = module.apply_rotary_emb, transformer.transformer_blocks[0].attn.norm_q
        self.assertIs(self.bridge.enable(self.pipe), self.pipe)
        with self.counted("attend_like_torch") as attended, self.counted("rms_norm") as normed, \
                self.counted("rotary_position_embedding") as rotated:
            enabled = self.draw()
        blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
        self.assertEqual(attended.call_count, 4 * blocks)
        self.assertEqual(rotated.call_count, 4 * 2 * blocks)
        self.assertGreaterEqual(normed.call_count, 4 * 2 * blocks)
        self.assertLessEqual((enabled - before).abs().max().item(), 1 / 255)
        self.bridge.disable(self.pipe)
        self.bridge.disable(self.pipe)
        self.assertTrue(torch.equal(self.draw(), before))
        self.assertIs(module.apply_rotary_emb, rotation)
        self.assertNotIn("forward", norm.__dict__)
        self.assertIsNone(transformer.transformer_blocks[0].attn.processor._attention_backend)

    def test_another_model_is_left_alone(self):
        other = diffusers.FluxPipeline.from_pretrained(MODEL, torch_dtype=torch.float32).transformer
        self.bridge.enable(self.pipe.transformer)
        inputs = {
            "hidden_states": torch.randn(1, 16, other.config.in_channels),
            "encoder_hidden_states": torch.randn(1, 8, other.config.joint_attention_dim),
            "pooled_projections": torch.randn(1, other.config.pooled_projection_dim),
            "timestep": torch.tensor([0.5]),
            "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(8, 3),
        }  # fmt: skip
        with torch.no_grad(), self.counted("attend_like_torch") as attended, \
                self.counted("rotary_position_embedding") as rotated:
            other(**inputs)
            self.assertEqual((attended.call_count, rotated.call_count), (0, 0))
            self.pipe.transformer(**inputs)
            self.assertGreater(rotated.call_count, 0)
        with self.assertRaisesRegex(RuntimeError, "requires grad"):
            self.pipe.transformer(**inputs)

    def test_shared_processors_and_copies(self):
        import copy

        model = copy.deepcopy(self.pipe.transformer)
        shared = diffusers.models.transformers.transformer_flux.FluxAttnProcessor()
        for module in model.modules():
            if getattr(module, "processor", None) is not None:
                module.processor = shared
        self.bridge.enable(model)
        copy.deepcopy(model)
        self.bridge.enable(model)
        self.bridge.disable(model)
        self.assertNotIn("_attention_backend", shared.__dict__)

    def test_diffusers_own_way(self):
        before = self.draw()
        self.pipe.transformer.set_attention_backend("rondo")
        with self.counted("attend_like_torch") as attended:
            drawn = self.draw()
        self.assertGreater(attended.call_count, 0)
        self.assertLessEqual((drawn - before).abs().max().item(), 1 / 255)
        with diffusers.attention_backend("rondo"):
            self.assertLessEqual((self.draw() - before).abs().max().item(), 1 / 255)

    def test_fallback_says_so_once(self):
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        q = torch.randn(1, 9, 2, 16)
        with self.assertRaisesRegex(NotImplementedError, "dropout_p 0.25"):
            dispatch_attention_fn(q, q, q, dropout_p=0.25, backend="rondo")
        with self.assertLogs("rondo.diffusers", logging.WARNING) as logs:
            for _ in range(3):
                self.assertEqual(dispatch_attention_fn(q, q, q, dropout_p=0.25, backend="rondo_or_native").shape, q.shape)
        self.assertEqual(len(logs.output), 1)

    def test_masks_as_diffusers_passes_them(self):
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        torch.manual_seed(1)
        q, k = torch.randn(2, 9, 4, 16), torch.randn(2, 17, 4, 16)
        for mask in (torch.rand(2, 17) > 0.3, torch.rand(2, 1, 1, 17) > 0.3, torch.randn(9, 17), torch.randn(2, 4, 9, 17)):
            results = [dispatch_attention_fn(q, k, k, attn_mask=mask, backend=name) for name in ("native", "rondo")]
            torch.testing.assert_close(*results, atol=2e-5, rtol=2e-5)
        results = [dispatch_attention_fn(q, k, k, is_causal=True, backend=name) for name in ("native", "rondo")]
        torch.testing.assert_close(*results, atol=2e-5, rtol=2e-5)

    def test_refusals(self):
        with self.assertRaisesRegex(TypeError, "int is given"):
            self.bridge.enable(3)
        with self.assertRaisesRegex(NotImplementedError, "AttnProcessor2_0"):
            self.bridge.enable(self.pipe.vae)
        with self.assertRaisesRegex(ValueError, "no attention processors"):
            self.bridge.enable(torch.nn.Linear(2, 2))


if __name__ == "__main__":
    unittest.main()
