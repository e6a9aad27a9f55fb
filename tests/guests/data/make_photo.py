#!/usr/bin/env python3
"""Paints data/photo.jpg: a lake at dusk with mountains, haze, water and film grain.

Procedural, so that no photograph's licence travels with the repository, but with
what makes a photograph expensive to decode: smooth gradients, texture and noise.
Needs numpy and Pillow. The committed JPEG is the input of the guest `image`.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

WIDTH, HEIGHT = 640, 480
HORIZON = 250


def value_noise(rng, width, height, cell):
    """Smooth noise in 0..1 with features of about `cell` pixels."""
    small = rng.random((height // cell + 2, width // cell + 2))
    image = Image.fromarray((small * 255).astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.BICUBIC)) / 255.0


def fractal(rng, width, height, cell, octaves):
    total, weight = np.zeros((height, width)), 0.0
    for octave in range(octaves):
        size = max(cell >> octave, 2)
        total += value_noise(rng, width, height, size) / 2**octave
        weight += 1 / 2**octave
    return total / weight


def ridge(rng, base, height, rough):
    """The skyline of one range of mountains: a y for every x."""
    x = np.arange(WIDTH)
    line = np.zeros(WIDTH)
    for octave in range(1, 8):
        line += np.sin(x / WIDTH * 2**octave * 3.1 + rng.random() * 6.28) / octave**rough
    return base - height * (0.5 + 0.5 * line / np.abs(line).max())


def main():
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    t = np.clip(y / HORIZON, 0, 1)[..., None]
    picture = (1 - t) * np.array([38, 58, 110.0]) + t * np.array([248, 176, 120.0])

    clouds = np.clip(fractal(rng, WIDTH, HEIGHT, 128, 6) - 0.5, 0, 1)[..., None] * 2.2
    picture += clouds * (1 - 0.6 * t) * np.array([120, 80, 70.0])
    sun = np.exp(-(((x - 430) / 46) ** 2 + ((y - 205) / 46) ** 2))[..., None]
    picture += sun * np.array([120, 95, 40.0])

    ranges = [(235, 95, 0.9, (112, 104, 130)), (248, 62, 0.7, (74, 72, 96)), (258, 34, 0.5, (36, 40, 52))]
    for base, height, rough, colour in ranges:
        mask = y >= ridge(rng, base, height, rough)[None, :]
        rock = fractal(rng, WIDTH, HEIGHT, 24, 4)[..., None]
        picture = np.where(mask[..., None], np.array(colour) * (0.7 + 0.6 * rock), picture)

    depth = np.clip((y - HORIZON) / (HEIGHT - HORIZON), 0, 1)
    mirror = np.clip((2 * HORIZON - y + 8 * np.sin(x / 11 + y / 3)).astype(int), 0, HEIGHT - 1)
    water = picture[mirror, x] * (0.78 - 0.45 * depth[..., None])
    ripple = np.sin(y * 1.9 + 9 * fractal(rng, WIDTH, HEIGHT, 64, 4))[..., None]
    water += ripple * (6 + 14 * depth[..., None])
    picture = np.where((y >= HORIZON)[..., None], water, picture)

    picture += rng.normal(0, 5, (HEIGHT, WIDTH, 1))
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("photo.jpg")
    image.filter(ImageFilter.UnsharpMask(1, 60)).save(target, quality=88, optimize=True)


if __name__ == "__main__":
    main()
