"""Augmentation of training batches: differences as between two X-rays of one patient, and mixtures of two images.

It works on TensorFlow tensors in the input pipeline and is not part of the saved model. Flips are off by default: they
move the heart to the other side.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# At strength 1.
MAX_ROTATION = 5.0  # degrees
MAX_SHIFT = 0.05  # of the side
MAX_ZOOM = 0.10
MAX_STRETCH = 0.15  # natural logarithm of the ratio of width and height
MAX_GAMMA = 0.3  # natural logarithm
MAX_CONTRAST = 0.25
MAX_BRIGHTNESS = 20.0  # gray levels
MAX_SHARPNESS = 1.0  # of the details that a blur by 1.2 pixels removes; added, the image is sharper
MAX_NOISE = 10.0  # gray levels, standard deviation
MAX_ERASED = 0.3  # of the side, of a rectangle

CROP_STRETCH = math.log(4 / 3)
"""Largest natural logarithm of the ratio of width and height of a crop, as is usual for ImageNet."""

CORNER, BORDER = 0.35, 0.1
"""Largest sides of a corner, and largest width of a border, that `hide_edges` hides; of the side of the image. The
letters of the Kermany set lie within 36 of 224 pixels of a corner."""

MIN_VISIBLE = 0.4
"""Least share of a box that must stay in the image; of an opacity that is mostly cut off the box is dropped."""


def shrink(pixels: Any, size: int | None) -> Any:
    """Images at the size of the network that will see them, if that is smaller: distorting them is then cheaper.

    Args:
        pixels: tensor (n, side, side, 1), 0-255.
        size: side of the network's input in pixels; None = any.

    Returns:
        float32 tensor of the same values as the layer `resize` of the network gives, which then changes nothing.
    """
    import tensorflow as tf

    if size is None or pixels.shape[1] <= size:
        return tf.cast(pixels, tf.float32)
    return tf.image.resize(pixels, (size, size))


def hide_edges(pixels: Any, *, fraction: float, seed: Any) -> Any:
    """A corner or the whole border of some images painted with their mean: letters and frames teach nothing there.

    Args:
        pixels: tensor (n, side, side, 1), 0-255.
        fraction: share of the images that are changed; each by a rectangle in one corner or by a frame, of random size.
        seed: int64 tensor (2,); the same seed gives the same result.

    Returns:
        The tensor itself if `fraction` is 0, else float32 of the same shape.
    """
    import tensorflow as tf

    if fraction == 0:
        return pixels
    n, side = pixels.shape[0], pixels.shape[1]
    pixels = tf.cast(pixels, tf.float32)
    is_changed, is_border, from_right, from_bottom, width, height = tf.unstack(
        tf.random.stateless_uniform((6, n), seed=seed + 4)[:, :, None]
    )
    places = (tf.range(side, dtype=tf.float32)[None] + 0.5) / side

    def distances(is_from_end: Any) -> Any:
        return tf.where(is_from_end < 0.5, places, 1 - places)

    x, y = distances(from_right)[:, None, :], distances(from_bottom)[:, :, None]
    in_corner = (x < width[..., None] * CORNER) & (y < height[..., None] * CORNER)
    to_edge = tf.minimum(tf.minimum(x, 1 - x), tf.minimum(y, 1 - y))
    is_hidden = tf.where(is_border[..., None] < 0.5, to_edge < width[..., None] * BORDER, in_corner)
    is_hidden &= is_changed[..., None] < fraction
    return tf.where(is_hidden[..., None], tf.reduce_mean(pixels, axis=(1, 2, 3), keepdims=True), pixels)


def crop(pixels: Any, size: int | None, *, smallest: float, flip: bool, seed: Any) -> Any:
    """A random part of each image, enlarged to the input of the network; with smallest = 1 the whole image.

    Crops of random size and proportions take away what a network could learn from the frame of an image: where its
    corners are, how large the lungs are in it, and which proportions it has.

    Args:
        pixels: tensor (n, side, side, 1), 0-255.
        size: side of the network's input in pixels; None = any.
        smallest: smallest share of the area that is kept, above 0; the share is drawn uniformly from there to 1.
        flip: whether a random half of the images is mirrored, left to right.
        seed: int64 tensor (2,); the same seed gives the same result.

    Returns:
        float32 tensor (n, size, size, 1), 0-255.

    Source: Szegedy et al. (2015), arXiv:1409.4842, section 6.
    """
    import tensorflow as tf

    n, side = pixels.shape[0], size or pixels.shape[1]
    corners, is_flipped = _crops(n, smallest, seed)
    if smallest < 1:
        pixels = tf.image.crop_and_resize(tf.cast(pixels, tf.float32), corners, tf.range(n), (side, side))
    else:
        pixels = shrink(pixels, size)
    return tf.where(is_flipped[:, None, None, None], tf.reverse(pixels, axis=[2]), pixels) if flip else pixels


def crop_boxes(boxes: Any, *, smallest: float, flip: bool, seed: Any) -> Any:
    """Where the boxes are in what `crop` makes of the images with the same arguments.

    Args:
        boxes: float32 tensor (n, k, 4): x, y, width, height as shares of the image. Rows of width 0 are no boxes; NaN
            stays NaN.

    Returns:
        float32 tensor (n, k, 4). A box is clipped to the image; one of which too little stays has width 0.
    """
    import tensorflow as tf

    corners, is_flipped = _crops(boxes.shape[0], smallest, seed)
    if smallest < 1:
        top, left, bottom, right = (one[:, None] for one in tf.unstack(corners, axis=1))
        across, down = right - left, bottom - top
        x, y, width, height = tf.unstack(boxes, axis=2)
        boxes = tf.stack([(x - left) / across, (y - top) / down, width / across, height / down], axis=2)
    if flip:
        mirrored = tf.concat([1 - boxes[..., :1] - boxes[..., 2:3], boxes[..., 1:]], axis=2)
        boxes = tf.where(is_flipped[:, None, None], mirrored, boxes)
    return _visible(boxes)


def _crops(n: int, smallest: float, seed: Any) -> tuple[Any, Any]:
    """The parts that are kept, (n, 4): top, left, bottom, right, as shares of the image; and whether it is mirrored."""
    import tensorflow as tf

    draws = tf.random.stateless_uniform((5, n), seed=seed + 3)
    area = smallest + (1 - smallest) * draws[0]
    # A large part cannot be much longer than wide: it would reach beyond the image.
    stretch = tf.minimum(CROP_STRETCH, -tf.math.log(area)) * (2 * draws[1] - 1)
    width, height = tf.sqrt(area * tf.exp(stretch)), tf.sqrt(area * tf.exp(-stretch))
    left, top = draws[2] * (1 - width), draws[3] * (1 - height)
    return tf.stack([top, left, top + height, left + width], axis=1), draws[4] < 0.5


def distort(pixels: Any, *, fraction: float, strength: float, seed: Any) -> Any:
    """Small changes of position, proportions, gray levels and sharpness; noise; one erased rectangle.

    Args:
        pixels: float32 tensor (n, height, width, 1), 0-255.
        fraction: share of the images that are changed, each by its own random amounts.
        strength: factor of the amounts, 0 or more; 1 = up to the maxima above.
        seed: int64 tensor (2,); the same seed gives the same result.

    Returns:
        float32 tensor of the same shape, 0-255.
    """
    import tensorflow as tf

    if fraction == 0:
        return pixels
    n, amounts = _amounts(pixels.shape[0], fraction, strength, seed)
    unchanged, pixels = pixels[n:], pixels[:n]
    angle, shift_x, shift_y, zoom, stretch, gamma, contrast, brightness, sharpness, noise, *rectangle = amounts
    moved = _move(pixels, angle, shift_x, shift_y, zoom, stretch)
    # An exponential and a logarithm take a third of the time of a power.
    corrected = 255.0 * tf.exp(_per_image(tf.exp(gamma * MAX_GAMMA)) * tf.math.log(tf.maximum(moved, 1e-6) / 255.0))
    mean = tf.reduce_mean(corrected, axis=(1, 2, 3), keepdims=True)
    factor = _per_image(1 + contrast * MAX_CONTRAST)
    scaled = mean + (corrected - mean) * factor + _per_image(brightness * MAX_BRIGHTNESS)
    sharpened = scaled + (scaled - _blurred(_blurred(scaled))) * _per_image(sharpness * MAX_SHARPNESS)
    grain = tf.random.stateless_uniform(tf.shape(pixels), seed=seed + 1, minval=-(3**0.5), maxval=3**0.5)
    noisy = sharpened + grain * _per_image(noise * MAX_NOISE)
    changed = tf.clip_by_value(_erase(noisy, mean, *rectangle), 0.0, 255.0)
    return tf.concat([changed, unchanged], axis=0)


def distort_boxes(boxes: Any, *, fraction: float, strength: float, seed: Any) -> Any:
    """Where the boxes are in what `distort` makes of square images with the same arguments.

    The new box encloses the ellipse in the old one: opacities are round, and a box around a turned box would grow.

    Args:
        boxes: as of `crop_boxes`.

    Returns:
        As `crop_boxes`.
    """
    import tensorflow as tf

    if fraction == 0:
        return boxes
    n, (angle, shift_x, shift_y, zoom, stretch, *_) = _amounts(boxes.shape[0], fraction, strength, seed)
    a, b, d, e = (one[:, None] for one in _turned(angle, zoom, stretch))
    x, y, width, height = tf.unstack(boxes[:n], axis=2)
    # From the middle of the image, back through the map of `_move`.
    x_in = x + width / 2 - 0.5 - shift_x[:, None] * MAX_SHIFT
    y_in = y + height / 2 - 0.5 - shift_y[:, None] * MAX_SHIFT
    determinant = a * e + b * d
    x_out, y_out = (e * x_in + b * y_in) / determinant + 0.5, (a * y_in - d * x_in) / determinant + 0.5
    across = tf.sqrt((e * width) ** 2 + (b * height) ** 2) / determinant
    down = tf.sqrt((d * width) ** 2 + (a * height) ** 2) / determinant
    moved = tf.stack([x_out - across / 2, y_out - down / 2, across, down], axis=2)
    return tf.concat([_visible(moved), boxes[n:]], axis=0)


def _amounts(batch_size: int, fraction: float, strength: float, seed: Any) -> tuple[int, list[Any]]:
    """How many images, the first of the batch, are distorted, and the amounts of each kind, (n,)."""
    import tensorflow as tf

    # Batches are shuffled: the first images are random ones. The others need no computation.
    n = math.ceil(fraction * batch_size)
    draws = tf.random.stateless_uniform((15, n), seed=seed, minval=-1.0, maxval=1.0)
    is_changed = tf.cast((draws[0] + 1) / 2 < fraction * batch_size / n, tf.float32)
    return n, tf.unstack(draws[1:] * is_changed * strength)


def _visible(boxes: Any) -> Any:
    """Boxes clipped to the image; of width 0 where less than `MIN_VISIBLE` of their area is in it; NaN stays."""
    import tensorflow as tf

    start = tf.clip_by_value(boxes[..., :2], 0.0, 1.0)
    sides = tf.clip_by_value(boxes[..., :2] + boxes[..., 2:], 0.0, 1.0) - start
    stays = tf.reduce_prod(sides, axis=2) >= MIN_VISIBLE * tf.reduce_prod(boxes[..., 2:], axis=2)
    clipped = tf.concat([start, sides * tf.cast(stays, tf.float32)[..., None]], axis=2)
    return tf.where(tf.math.is_finite(boxes), clipped, boxes)


def mixup(pixels: Any, labels: Any, weights: Any, *, alpha: float, seed: Any) -> tuple[Any, Any, Any]:
    """Each image mixed with another one of the batch; labels and weights too, so that each part keeps its weight.

    Zhang et al. (2018), arXiv:1710.09412.

    Args:
        pixels: float32 tensor (n, …), images or their features.
        labels, weights: float32 tensors (n, 1).
        alpha: of the beta distribution of the share: small = mostly shares near 0 or 1, 1 = uniform; 0 = no mixing.
        seed: int64 tensor (2,).

    Returns:
        Tensors of the same shapes.
    """
    import tensorflow as tf

    if alpha == 0:
        return pixels, labels, weights
    draws = tf.random.stateless_gamma((2, pixels.shape[0], 1), seed=seed + 2, alpha=alpha)
    share = tf.math.divide_no_nan(draws[0], draws[0] + draws[1])
    share = tf.maximum(share, 1 - share)  # the image at its own place stays the larger part

    def mixed(values: Any) -> Any:
        # Batches are shuffled: in reverse order each image is paired with a random one.
        part = tf.reshape(share, (-1, *[1] * (len(values.shape) - 1)))
        return part * values + (1 - part) * tf.reverse(values, axis=[0])

    # Each part has the weight of its image: plain mixing would pass the weight of a rare class to the other class.
    weight = mixed(weights)
    return mixed(pixels), tf.math.divide_no_nan(mixed(weights * labels), weight), weight


def _per_image(values: Any) -> Any:
    return values[:, None, None, None]


def _move(pixels: Any, angle: Any, shift_x: Any, shift_y: Any, zoom: Any, stretch: Any) -> Any:
    """Rotate, shift, zoom and stretch; amounts (n,) from -1 to 1."""
    import tensorflow as tf

    height, width = pixels.shape[1], pixels.shape[2]
    # Output-to-input map about the centre: x' = a x - b y + c, y' = d x + e y + f.
    a, b, d, e = _turned(angle, zoom, stretch)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    c = centre_x - a * centre_x + b * centre_y + shift_x * (MAX_SHIFT * width)
    f = centre_y - d * centre_x - e * centre_y + shift_y * (MAX_SHIFT * height)
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=tf.stack([a, -b, c, d, e, f, zero, zero], axis=1),
        output_shape=[height, width],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )


def _turned(angle: Any, zoom: Any, stretch: Any) -> tuple[Any, Any, Any, Any]:
    """The map of `_move` without its shifts: a, b, d, e, (n,) each."""
    import tensorflow as tf

    radians, scale, aspect = angle * (MAX_ROTATION * np.pi / 180), 1 + zoom * MAX_ZOOM, tf.exp(stretch * MAX_STRETCH)
    across, down = scale * tf.sqrt(aspect), scale / tf.sqrt(aspect)
    return tf.cos(radians) * across, tf.sin(radians) * down, tf.sin(radians) * across, tf.cos(radians) * down


def _blurred(pixels: Any) -> Any:
    """The mean of 3x3 pixels; outside the image lie its outermost pixels once more."""
    import tensorflow as tf

    # `avg_pool2d` takes 25 times as long for images of one channel.
    wider = tf.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), "SYMMETRIC")
    rows = wider[:, :-2] + wider[:, 1:-1] + wider[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9


def _erase(pixels: Any, gray: Any, x: Any, y: Any, width: Any, height: Any) -> Any:
    """A rectangle of each image set to `gray` (n, 1, 1, 1); amounts (n,) from -1 to 1; sides of 0 or less: none.

    Zhong et al. (2020), Random Erasing, arXiv:1708.04896.
    """
    import tensorflow as tf

    def within(side: int, middle: Any, extent: Any) -> Any:
        places = tf.linspace(-1.0, 1.0, side)
        return tf.abs(places - middle[:, None]) < extent[:, None] * MAX_ERASED

    inside = within(pixels.shape[1], y, height)[:, :, None, None] & within(pixels.shape[2], x, width)[:, None, :, None]
    return tf.where(inside, gray, pixels)
