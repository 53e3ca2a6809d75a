// One picture from a prompt, written as a PPM file. usage: text_to_image MODEL_FOLDER PROMPT OUTPUT.ppm
#include <rondo/error.h>
#include <rondo/text_to_image.h>

#include <cstdio>
#include <fstream>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: text_to_image MODEL_FOLDER PROMPT OUTPUT.ppm\n");
    return 2;
  }
  try {
    rondo::TextToImagePipeline pipeline = rondo::TextToImagePipeline::open(argv[1], {});
    rondo::TextToImageRequest request;
    request.prompt = argv[2];
    request.seed = 2;
    rondo::RunObserver observer;
    observer.on_step = [](std::int64_t step, std::int64_t steps) {
      std::printf("step %d of %d\n", static_cast<int>(step), static_cast<int>(steps));
    };
    pipeline.generate(
        pipeline.resolve(request),
        [&](rondo::GeneratedImage&& picture) {
          std::ofstream file(argv[3], std::ios::binary);
          file << "P6\n" << picture.image.width << ' ' << picture.image.height << "\n255\n";
          file.write(reinterpret_cast<const char*>(picture.image.pixels.data()),
                     static_cast<std::streamsize>(picture.image.pixels.size()));
        },
        observer);
  } catch (const rondo::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
