"""Deep networks that the learning curve compares with: U-Nets on whole photographs, all layers trained."""

import time
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice, pairwise

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from faceseg.backbone import CHANNELS, backbone
from faceseg.face import Face, mirror_face, resize_face, warp_face

SIZE = 320  # rows and columns of a network's input, in pixels
WIDTHS = (24, 40, 64, 96, 128)  # channels at strides 2 to 32, from scratch
DECODER = (24, 32, 48, 64, 96)  # channels of the decoder at strides 2 to 32


def block(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    "Convolution of 3x3 pixels, batch normalisation, ReLU."
    convolution = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU(True))


class ScratchEncoder(nn.Module):
    "Two convolutions at each stride from 2 to 32."
    def __init__(self):
        super().__init__()
        sizes = pairwise((3, *WIDTHS))
        self.stages = nn.ModuleList(nn.Sequential(block(a, b, 2), block(b, b)) for a, b in sizes)

    def forward(self, x):
        outputs = []
        for stage in self.stages: outputs.append(x := stage(x))
        return outputs


class UNet(nn.Module):
    "An encoder's maps, from coarse to fine: upsampled, joined with the next finer ones, convolved twice."
    def __init__(self,
        n_classes: int,  # of the labels
        pretrained: bool,  # encoder: the backbone of the recipe `deep`, or one from scratch
    ):
        super().__init__()
        self.pretrained = pretrained
        self.encoder = deepcopy(backbone()).requires_grad_(True) if pretrained else ScratchEncoder()
        channels = CHANNELS if pretrained else WIDTHS
        n, stages = channels[-1], []
        for skip, width in zip(channels[-2::-1], DECODER[-2::-1]):
            stages.append(nn.Sequential(block(n + skip, width), block(width, width)))
            n = width
        self.decoder, self.head = nn.ModuleList(stages), nn.Conv2d(n, n_classes, 1)

    def forward(self, x):
        *finer, y = self.encoder(x)
        for stage, skip in zip(self.decoder, finer[::-1]):
            y = stage(torch.cat([F.interpolate(y, size=skip.shape[2:], mode="bilinear"), skip], 1))
        return F.interpolate(self.head(y), size=x.shape[2:], mode="bilinear")


def squared(face: Face) -> Face:  # SIZE rows and columns, the photograph in the middle, its border continued
    "A photograph as a network reads it."
    height, width = face.image.shape[:2]
    face = resize_face(face, round(SIZE * height / max(height, width)))
    height, width = face.image.shape[:2]
    shift = np.array([[1.0, 0, (SIZE - width) // 2], [0, 1, (SIZE - height) // 2]])
    return warp_face(face, shift, (SIZE, SIZE), "replicate")


def altered(
    face: Face,  # from `squared`
    rng: np.random.Generator,
) -> Face:
    "Mirrored or not, nearer or farther, turned, shifted, in another light."
    if rng.random() < 0.5: face = mirror_face(face)
    affine = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), rng.normal(0, 8), np.exp(rng.normal(0, 0.12)))
    affine[:, 2] += rng.normal(0, 0.04 * SIZE, 2)
    face = warp_face(face, affine, (SIZE, SIZE), "replicate")
    image = face.image.astype(np.float32) / 255
    gamma, gain, shift = np.exp(rng.normal(0, 0.2)), np.exp(rng.normal(0, 0.08, 3)), rng.normal(0, 0.03, 3)
    if rng.random() < 0.15: image = image.mean(2, keepdims=True).repeat(3, 2)
    image = np.clip(image**gamma * gain + shift, 0, 1)
    return Face((255 * image).astype(np.uint8), face.labels, None, face.name, face.schema)


def to_input(images: list[np.ndarray]) -> torch.Tensor:  # float32 (N, 3, H, W)
    "Images as both encoders read them."
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return ((stacked - 127) / 128).contiguous(memory_format=torch.channels_last)


def loss_of(
    logits: torch.Tensor,  # (N, C, H, W)
    labels: torch.Tensor,  # int64 (N, H, W)
) -> torch.Tensor:
    "Cross entropy, and one minus the mean Dice coefficient, which is F1 of probabilities."
    truth = F.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2).float()
    proba = logits.softmax(1)
    both, all_of = (proba * truth).sum((0, 2, 3)), (proba + truth).sum((0, 2, 3))
    there = truth.sum((0, 2, 3)) > 0
    return F.cross_entropy(logits, labels) + 1 - (2 * both / all_of)[there].mean()


def batches(
    photographs: list[Face],  # from `squared`
    rendered: list[Face],  # from `squared`, too; may be empty
    seed: int,
    size: int = 8,  # faces a batch
    share: float = 0.75,  # of photographs, where there are both
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:  # (N, 3, H, W), int64 (N, H, W), without end
    "Altered faces, each as often as the others of its kind."
    rng, queues = np.random.default_rng(seed), {}
    while True:
        chosen = []
        for _ in range(size):
            pool = photographs if not rendered or (photographs and rng.random() < share) else rendered
            queue = queues.setdefault(id(pool), [])
            if not queue: queue.extend(rng.permutation(len(pool)))
            chosen.append(altered(pool[queue.pop()], rng))
        yield (to_input([face.image for face in chosen]),
               torch.from_numpy(np.stack([face.labels for face in chosen])).long())


def train_peer(
    network: UNet,  # changed
    data: Iterator,  # from `batches`
    n_steps: int,
    rate: float,  # largest learning rate; of a pretrained encoder a fifth of it
) -> dict:  # CPU seconds, and the mean loss of each twentieth of the steps
    "AdamW with a cosine schedule, all layers."
    slower = 0.2 if network.pretrained else 1.0
    groups = [{"params": network.encoder.parameters(), "lr": slower * rate},
              {"params": [*network.decoder.parameters(), *network.head.parameters()], "lr": rate}]
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-2)
    warm = max(1, n_steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min(1, (k + 1) / warm) * 0.5 * (1 + np.cos(np.pi * k / n_steps)))
    start, losses = time.process_time(), []
    network.train()
    for images, labels in islice(data, n_steps):
        loss = loss_of(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    network.eval()
    return {"cpu_seconds": time.process_time() - start,
            "losses": [float(part.mean()) for part in np.array_split(losses, 20)]}


def predict_peer(
    network: UNet,  # trained
    image: np.ndarray,  # uint8 (H, W, 3), RGB
) -> np.ndarray:  # float32 (H, W, C)
    "Class probabilities of every pixel of a photograph."
    height, width = image.shape[:2]
    scale = SIZE / max(height, width)
    h, w = round(scale * height), round(scale * width)
    top, left = (SIZE - h) // 2, (SIZE - w) // 2
    with torch.inference_mode():
        logits = network(to_input([squared(Face(image)).image]))[:, :, top:top + h, left:left + w]
        proba = F.interpolate(logits, size=(height, width), mode="bilinear").softmax(1)[0]
    return proba.permute(1, 2, 0).numpy()
