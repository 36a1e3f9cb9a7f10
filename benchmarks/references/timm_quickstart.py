"""timm's quick start: one image, the embedded model's architecture, top five labels; the weights from a file.

The form of https://huggingface.co/docs/timm/quickstart.
"""

import argparse

import timm
import torch
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image")
parser.add_argument("--checkpoint", required=True)
arguments = parser.parse_args()

image = Image.open(arguments.image).convert("RGB")

model = timm.create_model("tf_efficientnet_lite0", checkpoint_path=arguments.checkpoint)
model.eval()

data_config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**data_config, is_training=False)
labels = timm.data.ImageNetInfo()

with torch.inference_mode():
    probabilities = model(transform(image).unsqueeze(0)).squeeze(0).softmax(0)
for probability, index in zip(*probabilities.topk(5), strict=True):
    print(f"{index}\t{probability:.6f}\t{labels.index_to_description(int(index))}")
