// Every model against diffusers and transformers, in float32 and, where the CPU has it, bfloat16.
#include <gtest/gtest.h>

#include "core/cpu_level.h"
#include "graph/model.h"
#include "models/autoencoder_kl.h"
#include "models/clip_text.h"
#include "models/flux_transformer.h"
#include "models/t5_encoder.h"
#include "support/golden.h"
#include "support/tensors.h"

namespace rondo::test {
namespace {

/// Float32 differs by the order of summation only; bfloat16 rounds every intermediate to 8 bits.
double bound(DType dtype) { return dtype == DType::f32 ? 2e-5 : 8e-2; }

struct Parameter {
  std::string pipeline;
  DType dtype;
};

class ModelGolden : public ::testing::TestWithParam<Parameter> {
 protected:
  void SetUp() override {
    if (dtype() == DType::bf16 && !has_native_bf16()) GTEST_SKIP() << "no bfloat16 products at this level";
  }
  DType dtype() const { return GetParam().dtype; }
  std::filesystem::path folder(const std::string& component) const {
    return pipeline_folder(GetParam().pipeline) / component;
  }
  JsonConfig config(const std::string& component) const { return JsonConfig::load(folder(component) / "config.json"); }
  Tensor golden(const std::string& name) const { return golden_.tensor(name); }

  /// A session over the component's weights; `build` gets the weights.
  template <typename Build>
  Session make_session(const std::string& component, const Build& build, const PassSelection& passes = {}) {
    model_ = std::make_unique<Model>(std::make_shared<const Checkpoint>(Checkpoint::open(folder(component))));
    PlanOptions options;
    options.target.threads = 2;
    options.passes = passes;
    return Session(model_->plan("golden", options, [&] { return build(&model_->source()); }));
  }
  void expect_close(const Session& session, const std::string& output, const std::string& name) const {
    EXPECT_LT(relative_error(session.output(output), golden(name)), bound(dtype())) << name;
  }

 private:
  Checkpoint golden_ = golden_tensors(GetParam().pipeline);
  std::unique_ptr<Model> model_;
};

TEST_P(ModelGolden, ClipText) {
  const ClipTextConfig clip = ClipTextConfig::parse(config("text_encoder"));
  Session session =
      make_session("text_encoder", [&](const WeightSource* w) { return build_clip_text(clip, 1, 32, dtype(), w); });
  const Tensor ids = golden("clip.input_ids");
  set_input(session, "input_ids", ids);
  *session.input("pooled_position").as<std::int32_t>() = static_cast<std::int32_t>(
      clip.pooled_position({ids.as<std::int32_t>(), static_cast<std::size_t>(ids.elements())}));
  session.run({});
  expect_close(session, "last_hidden_state", "clip.last_hidden_state");
  expect_close(session, "pooler_output", "clip.pooler_output");
}

TEST_P(ModelGolden, T5Encoder) {
  const T5EncoderConfig t5 = T5EncoderConfig::parse(config("text_encoder_2"));
  const Tensor ids = golden("t5.input_ids");
  Session session = make_session(
      "text_encoder_2", [&](const WeightSource* w) { return build_t5_encoder(t5, 1, ids.shape()[1], dtype(), w); });
  set_input(session, "input_ids", ids);
  session.run({});
  expect_close(session, "last_hidden_state", "t5.last_hidden_state");
}

TEST_P(ModelGolden, FluxTransformer) {
  const FluxTransformerConfig flux = FluxTransformerConfig::parse(config("transformer"));
  const FluxTransformerShape shape{2, 7, 3, 5, dtype()};
  PassSelection no_passes;
  no_passes.only_is_set = true;
  for (const PassSelection& passes : {PassSelection{}, no_passes}) {
    Session session = make_session(
        "transformer", [&](const WeightSource* w) { return build_flux_transformer(flux, shape, w); }, passes);
    for (const char* name : {"hidden_states", "encoder_hidden_states", "pooled_projections", "timestep"}) {
      set_input(session, name, golden(std::string("transformer.") + name));
    }
    if (flux.guidance_embeds) set_input(session, "guidance", golden("transformer.guidance"));
    session.run({});
    expect_close(session, "sample", "transformer.sample");
    session.run({});  // inputs are kept, and nothing of the first run lingers
    expect_close(session, "sample", "transformer.sample");
  }
}

TEST_P(ModelGolden, VaeDecoder) {
  const AutoencoderKlConfig vae = AutoencoderKlConfig::parse(config("vae"));
  Session session =
      make_session("vae", [&](const WeightSource* w) { return build_vae_decoder(vae, 1, 6, 10, dtype(), w); });
  set_input(session, "latents", golden("vae.latents"));
  session.run({});
  expect_close(session, "sample", "vae.decoded");
}

TEST_P(ModelGolden, VaeEncoder) {
  const AutoencoderKlConfig vae = AutoencoderKlConfig::parse(config("vae"));
  Session session = make_session("vae", [&](const WeightSource* w) {
    return build_vae_encoder(vae, 1, 5 * vae.scale(), 3 * vae.scale(), dtype(), w);
  });
  set_input(session, "sample", golden("vae.sample"));
  session.run({});
  expect_close(session, "moments", "vae.moments");
}

INSTANTIATE_TEST_SUITE_P(Pipelines, ModelGolden,
                         ::testing::Values(Parameter{"tiny", DType::f32}, Parameter{"tiny", DType::bf16},
                                           Parameter{"published", DType::f32}, Parameter{"published", DType::bf16},
                                           Parameter{"emoji", DType::f32}, Parameter{"emoji", DType::bf16}),
                         [](const auto& test) {
                           return test.param.pipeline + "_" + std::string(dtype_name(test.param.dtype));
                         });

}  // namespace
}  // namespace rondo::test
