"""torchvision's own tutorial: one image, ResNet-50, top five labels; the weights lie in torch.hub's cache.

The form of https://docs.pytorch.org/vision/stable/models.html, with nothing added but the colour conversion.
"""

import sys

import torch
from PIL import Image
from torchvision.models import ResNet50_Weights, resnet50

image = Image.open(sys.argv[1]).convert("RGB")

weights = ResNet50_Weights.DEFAULT
model = resnet50(weights=weights)
model.eval()

preprocess = weights.transforms()
batch = preprocess(image).unsqueeze(0)

with torch.inference_mode():
    probabilities = model(batch).squeeze(0).softmax(0)
for probability, index in zip(*probabilities.topk(5), strict=True):
    print(f"{index}\t{probability:.6f}\t{weights.meta['categories'][index]}")
