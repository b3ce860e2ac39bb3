"""Deep networks that the learning curve compares with: U-Nets on whole photographs, all layers trained."""

import time
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from faceseg.backbone import backbone
from faceseg.coarse import CHANNELS
from faceseg.datasets import list_faces
from faceseg.face import Face, mirror_face, resize_face, warp_face
from faceseg.files import read_face

PEERS = {  # name -> whether the encoder is pretrained, whether it begins from rendered faces
    "unet": (False, False), "unet-imagenet": (True, False),
    "unet+rendered": (False, True), "unet-imagenet+rendered": (True, True)}
WIDTHS = (24, 40, 64, 96, 128)  # channels at strides 2 to 32, from scratch
DECODER = (24, 32, 48, 64)  # channels of the decoder at strides 2 to 16
BATCH, SHARE = 4, 0.75  # faces a step; of them photographs, where there are rendered ones too
# largest rate of encoder and decoder, pretrained or not; chosen on 60 other training faces
RATES = {True: (1e-3, 3e-3), False: (6e-3, 6e-3)}
WEIGHT_DECAY = 1e-2


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
        pretrained: bool,  # the encoder: the backbone of the recipe `deep`, or one from scratch
    ):
        super().__init__()
        self.encoder = deepcopy(backbone()).requires_grad_(True) if pretrained else ScratchEncoder()
        channels = CHANNELS if pretrained else WIDTHS
        n, stages = channels[-1], []
        for skip, width in zip(channels[-2::-1], DECODER[::-1]):
            stages.append(nn.Sequential(block(n + skip, width), block(width, width)))
            n = width
        self.decoder, self.head = nn.ModuleList(stages), nn.Conv2d(n, n_classes, 1)

    def forward(self, x):
        *finer, y = self.encoder(x)
        for stage, skip in zip(self.decoder, finer[::-1]):
            y = stage(torch.cat([F.interpolate(y, size=skip.shape[2:], mode="bilinear"), skip], 1))
        return F.interpolate(self.head(y), size=x.shape[2:], mode="bilinear")


def squared(
    face: Face,  # any face
    size: int,  # rows and columns of the result
) -> Face:  # the photograph in the middle, its border continued
    "A photograph as a network reads it."
    height, width = face.image.shape[:2]
    face = resize_face(face, round(size * height / max(height, width)))
    height, width = face.image.shape[:2]
    shift = np.array([[1.0, 0, (size - width) // 2], [0, 1, (size - height) // 2]])
    return warp_face(face, shift, (size, size), "replicate")


def relit(
    image: np.ndarray,  # float32 (H, W, 3), 0 to 1
    rng: np.random.Generator,
) -> np.ndarray:  # of the same shape and range
    "Another brightness, contrast, colour and light from a side; sometimes blurred, noisy or without colour."
    side = len(image)
    if rng.random() < 0.15: image = image.mean(2, keepdims=True).repeat(3, 2)
    image = image ** np.exp(rng.normal(0, 0.4)) * np.exp(rng.normal(0, 0.16, 3)) + rng.normal(0, 0.06, 3)
    mean = image.mean((0, 1))
    image = mean + (image - mean) * np.exp(rng.normal(0, 0.25))
    grey = image.mean(2, keepdims=True)
    image = grey + (image - grey) * np.exp(rng.normal(0, 0.4))
    angle, (rows, columns) = rng.uniform(0, 2 * np.pi), np.mgrid[:side, :side] / side - 0.5
    across = np.cos(angle) * columns + np.sin(angle) * rows
    image = image * np.exp(rng.normal(0, 0.5) * across)[..., None]
    if rng.random() < 0.3: image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    if rng.random() < 0.3: image = image + rng.normal(0, rng.uniform(0, 0.05), image.shape)
    return np.clip(image, 0, 1)


def altered(
    face: Face,  # from `squared`
    rng: np.random.Generator,
) -> Face:  # of the same size, without landmarks
    "Mirrored or not, nearer or farther, turned, shifted, relit; how much was chosen with RATES."
    if rng.random() < 0.5: face = mirror_face(face)
    size = len(face.image)
    affine = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 12), np.exp(rng.normal(0, 0.2)))
    affine[:, 2] += rng.normal(0, 0.07 * size, 2)
    face = warp_face(face, affine, (size, size), "replicate")
    image = relit(face.image.astype(np.float32) / 255, rng)
    return Face((255 * image).astype(np.uint8), face.labels, None, face.name, face.schema)


def to_input(images: list[np.ndarray]) -> torch.Tensor:  # float32 (N, 3, H, W)
    "Images as both encoders read them."
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return ((stacked - 127) / 128).contiguous(memory_format=torch.channels_last)


def loss_of(
    logits: torch.Tensor,  # (N, C, H, W)
    labels: torch.Tensor,  # int64 (N, H, W)
) -> torch.Tensor:
    """Cross entropy, rare classes weighted by the square root of their rarity, and one minus the mean Dice
    coefficient, which is F1 of probabilities."""
    truth = F.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2).float()
    proba, pixels = logits.softmax(1), truth.sum((0, 2, 3))
    both, all_of = (proba * truth).sum((0, 2, 3)), proba.sum((0, 2, 3)) + pixels
    weights = pixels.clamp(min=1).rsqrt() * (pixels > 0)
    entropy = F.cross_entropy(logits, labels, weights)
    return entropy + 1 - (2 * both / all_of)[pixels > 0].mean()


class Peer:
    "A network that learns in stages: each `train` begins from the weights of the last."
    def __init__(self,
        name: str,  # one of PEERS
        size: int,  # rows and columns that it reads
        seed: int,  # for weights, order and alterations
        n_classes: int,  # of the labels
    ):
        self.pretrained, self.rendered = PEERS[name]
        self.size, self.rng, self.cpu_seconds = size, np.random.default_rng(seed), 0.0
        torch.manual_seed(seed)
        self.network = UNet(n_classes, self.pretrained).to(memory_format=torch.channels_last).eval()

    def batch(self, pools, queues):
        "Altered faces of one step, each face of a pool as often as the others."
        chosen = []
        for _ in range(BATCH):
            k = 0 if pools[0] and (not pools[1] or self.rng.random() < SHARE) else 1
            if not queues[k]: queues[k].extend(self.rng.permutation(len(pools[k])))
            chosen.append(altered(pools[k][queues[k].pop()], self.rng))
        labels = torch.from_numpy(np.stack([face.labels for face in chosen])).long()
        return to_input([face.image for face in chosen]), labels

    def train(self,
        photographs: list[Face],  # labelled; may be none where there are rendered ones
        n_steps: int,
    ):
        "AdamW with a cosine schedule, all layers; adds to `cpu_seconds`."
        start = time.process_time()
        rendered = [read_face(one) for one in list_faces("demo", split="train")] if self.rendered else []
        pools = [[squared(face, self.size) for face in faces] for faces in (photographs, rendered)]
        network, (slow, fast) = self.network.train(), RATES[self.pretrained]
        decoder = [*network.decoder.parameters(), *network.head.parameters()]
        groups = [{"params": network.encoder.parameters(), "lr": slow}, {"params": decoder, "lr": fast}]
        optimiser, warm = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY), max(1, n_steps // 20)
        rise_and_fall = lambda k: min(1, (k + 1) / warm) * 0.5 * (1 + np.cos(np.pi * k / n_steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rise_and_fall)
        queues = [], []
        for _ in range(n_steps):
            images, labels = self.batch(pools, queues)
            loss = loss_of(network(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        network.eval()
        self.cpu_seconds += time.process_time() - start

    def predict_proba(self,
        image: np.ndarray,  # uint8 (H, W, 3), RGB
    ) -> np.ndarray:  # float32 (H, W, C)
        "Class probabilities of every pixel of a photograph."
        height, width = image.shape[:2]
        h, w = (round(self.size * side / max(height, width)) for side in (height, width))
        top, left = (self.size - h) // 2, (self.size - w) // 2
        with torch.inference_mode():
            logits = self.network(to_input([squared(Face(image), self.size).image]))
            logits = logits[:, :, top:top + h, left:left + w]
            proba = F.interpolate(logits, size=(height, width), mode="bilinear").softmax(1)[0]
        return proba.permute(1, 2, 0).numpy()

    def save(self, path: Path):
        "Keep weights, cost and random state."
        part = path.with_suffix(".part")
        torch.save({"weights": self.network.state_dict(), "cpu_seconds": self.cpu_seconds,
                    "rng": self.rng.bit_generator.state}, part)
        part.rename(path)

    def load(self, path: Path):
        "Go on from what was kept."
        kept = torch.load(path, weights_only=True)
        self.network.load_state_dict(kept["weights"])
        self.cpu_seconds, self.rng.bit_generator.state = kept["cpu_seconds"], kept["rng"]
