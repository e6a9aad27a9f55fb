#!/usr/bin/env python3
"""Trains the network of the guest `inference` and writes its two data files.

The task: digits of 16x16 pixels, drawn by Pillow's own font, turned, sheared, moved,
thickened and dimmed, with noise on top. The network is an MLP of 256-128-64-10 with
ReLU, trained in floats with Adam and quantized afterwards, per layer, to int8.

    weights.bin  "SSNN", u32 layers; per layer: u32 inputs, u32 outputs, f32 scale,
                 i32 biases[outputs], i8 weights[outputs][inputs]; little-endian
    samples.bin  held-out samples: u8 label, then 128 bytes of two pixels each
                 (4 bits a pixel, the left one in the low half)

A layer computes `sum(weight * input) + bias` in integers and multiplies by its scale:
hidden layers round that to 0..=127, the last one's results are logits.
Needs numpy and Pillow; takes less than a minute. The outputs are committed.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 16
LAYERS = [SIZE * SIZE, 128, 64, 10]
TRAINING, HELD_OUT, EPOCHS, BATCH = 24_000, 500, 14, 64


def draw(rng, digit):
    """One digit, 4 times too large, distorted and then brought down to 16x16."""
    big = SIZE * 4
    image = Image.new("L", (big, big))
    font = ImageFont.load_default(size=rng.uniform(46, 62))
    ImageDraw.Draw(image).text(
        (big / 2, big / 2), str(digit), fill=255, font=font, anchor="mm",
        stroke_width=int(rng.integers(0, 4)),
    )
    angle, shear = rng.normal(0, 0.16), rng.normal(0, 0.15)
    c, s = np.cos(angle), np.sin(angle)
    dx, dy = rng.normal(0, 3.0, 2)
    a, b, d, e = c, -s + shear, s, c
    centre = big / 2
    matrix = (a, b, centre - a * centre - b * centre + dx,
              d, e, centre - d * centre - e * centre + dy)
    image = image.transform((big, big), Image.AFFINE, matrix, Image.BILINEAR)
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.BOX), np.float32)
    pixels = pixels * rng.uniform(0.45, 1.0) + rng.normal(0, rng.uniform(5, 38), (SIZE, SIZE))
    # Four bits, as a cheap camera would deliver and as samples.bin holds.
    return np.clip(pixels, 0, 255).astype(np.uint8) >> 4


def dataset(rng, count):
    labels = np.arange(count) % 10
    rng.shuffle(labels)
    return np.stack([draw(rng, digit).ravel() for digit in labels]), labels


def inputs_of(nibbles):
    """What the guest feeds to the network: 0..=120 for 4 bits."""
    return nibbles.astype(np.int32) * 8


def train(rng, x, labels):
    weights = [rng.normal(0, np.sqrt(2 / i), (o, i)).astype(np.float32)
               for i, o in zip(LAYERS, LAYERS[1:])]
    parameters = weights + [np.zeros(o, np.float32) for o in LAYERS[1:]]
    moments = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    depth, step = len(weights), 0
    for epoch in range(EPOCHS):
        rate = 2e-3 * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        order, lost = rng.permutation(len(x)), 0.0
        for start in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[start:start + BATCH]
            activations = [x[batch]]
            for layer in range(depth):
                z = activations[-1] @ parameters[layer].T + parameters[depth + layer]
                activations.append(np.maximum(z, 0) if layer < depth - 1 else z)
            logits = activations[-1] - activations[-1].max(1, keepdims=True)
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            lost -= np.log(p[np.arange(BATCH), labels[batch]] + 1e-9).sum()
            delta = p
            delta[np.arange(BATCH), labels[batch]] -= 1
            delta /= BATCH
            gradients = [None] * len(parameters)
            for layer in reversed(range(depth)):
                gradients[layer] = delta.T @ activations[layer] + 1e-4 * parameters[layer]
                gradients[depth + layer] = delta.sum(0)
                delta = (delta @ parameters[layer]) * (activations[layer] > 0)
            step += 1
            for p_, g, (m, v) in zip(parameters, gradients, moments):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                p_ -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        print(f"epoch {epoch + 1}: loss {lost / len(x):.4f}")
    return parameters[:depth], parameters[depth:]


def quantize(weights, biases, x):
    """Integers per layer: weights to ±127, activations to 0..=127 by their largest."""
    layers, activation, unit = [], x, 1 / 127  # x is in units of 1/127
    for index, (w, b) in enumerate(zip(weights, biases)):
        w_unit = np.abs(w).max() / 127
        w8 = np.clip(np.rint(w / w_unit), -127, 127).astype(np.int8)
        b32 = np.rint(b / (w_unit * unit)).astype(np.int32)
        z = activation @ w.T + b
        last = index == len(weights) - 1
        activation = z if last else np.maximum(z, 0)
        next_unit = 1.0 if last else np.quantile(activation, 0.9995) / 127
        layers.append((w8, b32, np.float32(w_unit * unit / next_unit)))
        unit = next_unit
    return layers


def classify(layers, x):
    """The arithmetic of the guest, to the bit."""
    for index, (w, b, scale) in enumerate(layers):
        z = (x @ w.T.astype(np.int32) + b).astype(np.float32) * scale
        x = z if index == len(layers) - 1 else np.clip(np.rint(z), 0, 127).astype(np.int32)
    return x


def main():
    here = Path(__file__).parent
    rng = np.random.default_rng(20_26)
    train_x, train_y = dataset(rng, TRAINING)
    test_x, test_y = dataset(rng, HELD_OUT)
    x = inputs_of(train_x).astype(np.float32) / 127
    weights, biases = train(rng, x, train_y)
    layers = quantize(weights, biases, x)

    with open(here / "weights.bin", "wb") as out:
        out.write(b"SSNN" + np.uint32(len(layers)).tobytes())
        for w, b, scale in layers:
            out.write(np.array(w.shape[::-1], np.uint32).tobytes() + scale.tobytes())
            out.write(b.tobytes() + w.tobytes())
    packed = test_x[:, 0::2] | test_x[:, 1::2] << 4
    with open(here / "samples.bin", "wb") as out:
        for label, pixels in zip(test_y, packed):
            out.write(bytes([label]) + pixels.tobytes())

    right = (classify(layers, inputs_of(test_x)).argmax(1) == test_y).sum()
    print(f"quantized, held out: {right} of {HELD_OUT} right")


if __name__ == "__main__":
    main()
