// From what a caller asks for to how plans are made: one place for every pipeline and every verb.
#pragma once

#include "pipelines/runner.h"
#include "rondo/text_to_image.h"

namespace rondo {

/// The device, opened (with several ranks one for each, which all ask for together), threads and passes, defaults
/// filled in; how attention is quantised depends on the model, too, and is added to it. Throws InvalidArgument for a
/// number of threads outside 1 to 1024 and for a pass that is not known; as find_device() and open_device().
PlanOptions plan_options(const PipelineOptions& options);

/// Compute dtype, plan_options() and how attention is asked to be quantised: what every run of a model needs. Throws as
/// plan_options() and resolve_compute_dtype().
ComputeOptions compute_options(const PipelineOptions& options);

/// For the parts of a pipeline beside its transformer: the attention kernel that a caller names is the transformer's,
/// since others have masks and biases that it may not take; so is what is said of quantisation.
PlanOptions options_of_other_parts(PlanOptions options);

}  // namespace rondo
