"""Synthetic frontal chest radiographs with known pneumonia.

A small physical model in place of an archive: centimetres of tissue along each ray, Beer-Lambert transmission,
scatter, quantum noise, detector blur and a film curve. It lets the whole workflow run without a network connection. The
model places the disease, so its position is known to the pixel: boxes and lung masks are exact, not human readings.

The images are synthetic. Figures measured on them show whether the workflow works; they say nothing about patients.

Cost: 22 ms an image on one core. Difficulty, with 3,000 train images and 1,000 test images of other patients: logistic
regression on 32 x 32 pixels reaches AUC .82, on the outer frame alone .58, the `compact` network .97.

Lengths are in cm in the patient's frame: x to the right of the image (the patient's left), y downwards,
origin on the midline at the height of the lung apices. Maps are float32 (height, width).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
Points = NDArray[np.float32]

# Linear attenuation coefficients, 1/cm, at an effective energy of 60 keV (a filtered 110-125 kVp chest beam).
# Mass attenuation from Hubbell and Seltzer, NIST Standard Reference Database 126 (NISTIR 5632), compositions of
# ICRU Report 44, times density: soft tissue .2048 cm2/g x 1.06 g/cm3, aerated lung .2053 x .26, cortical bone
# .3148 x 1.92, adipose .1974 x .95, air .1875 x .0012, lead 5.021 x 11.35. Spongy bone is 15 % cortical bone by
# volume in marrow of soft tissue.
ATTENUATION = {
    "soft": 0.217,
    "lung": 0.0534,
    "cortical": 0.604,
    "spongy": 0.275,
    "fat": 0.1875,
    "air": 0.00023,
    "lead": 57.0,
}

SUBTYPES = ("normal", "bacteria", "virus")
IMAGES_PER_PATIENT = (0.45, 0.30, 0.15, 0.10)  # probability of 1 to 4 images; equal for all classes, else a leak

FIELD_CM = 44.0  # side of the square in the patient's frame that per-patient noise fields cover
FIELD_SIZE = 256  # samples along that side
FIXED_BITS = 4  # OpenCV draws at sub-pixel positions when coordinates are integers in 1/16 pixel

# Where lobes project, in lung coordinates: s from 0 (mediastinum) to 1 (chest wall), h from 0 (apex) to 1 (dome).
# (side, ranges of s and h of the centre, h at which fissures end the lobe above and below). Side -1 is the patient's
# right, on the left of the image. Upper and lower lobes overlap in projection because the oblique fissure is oblique.
LOBES = {
    "right upper": (-1, (0.25, 0.75), (0.20, 0.42), (0.00, 0.52)),
    "right middle": (-1, (0.20, 0.60), (0.60, 0.78), (0.52, 1.00)),
    "right lower": (-1, (0.30, 0.80), (0.62, 0.90), (0.45, 1.20)),
    "left upper": (1, (0.30, 0.75), (0.22, 0.55), (0.00, 0.70)),
    "left lower": (1, (0.45, 0.85), (0.62, 0.90), (0.50, 1.20)),
}


class Patient(NamedTuple):
    """Everything needed to render one patient; cheap to pickle and send to another process."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used here
    patient_id: str
    label: int  # 0 normal, 1 pneumonia
    subtype: str  # one of SUBTYPES
    sex: str  # "F" or "M"
    age: int  # years
    n_images: int
    seed: int


class Radiograph(NamedTuple):
    """One synthetic image with its ground truth.

    image: uint8 (height, width), 0-255, bone and soft tissue bright.
    lung_mask: uint8 (height, width), 0 or 255; the air-containing lung fields, diseased parts included.
    boxes: (x, y, width, height) in pixels of image around each opacity; empty for normals.
    view: "PA" or "AP"; AP magnifies the heart.
    """

    image_id: str
    patient_id: str
    label: int
    subtype: str
    sex: str
    age: int
    view: str
    image: NDArray[np.uint8]
    lung_mask: NDArray[np.uint8]
    boxes: tuple[tuple[int, int, int, int], ...]


def plan(n_images: int, seed: int) -> list[Patient]:
    """The patients of a synthetic archive and their numbers of images; nothing is rendered.

    Images are normal : pneumonia = 1 : 3, as in the public paediatric archive, and bacteria : virus = 65 : 35, rounded
    to whole images. The order of the patients is random. Sex, age and images per patient have the same distribution in
    all classes, so that none of them predicts the label.

    Args:
        n_images: images in total, at least 4 (one of each subtype and the ratio).
        seed: not negative; another seed gives another archive.

    Raises:
        ValueError: for fewer images or a negative seed.

    >>> [patient.n_images for patient in plan(4, seed=0)]
    [1, 1, 1, 1]
    """
    if n_images < 4:
        raise ValueError(f"n_images is {n_images}, expected at least 4: three subtypes at the class ratio 1:3")
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected 0 or more")
    rng = np.random.default_rng(seed)
    n_normal = round(n_images / 4)
    n_virus = max(1, round(0.35 * (n_images - n_normal)))
    n_of_subtype = {"normal": n_normal, "bacteria": n_images - n_normal - n_virus, "virus": n_virus}
    people: list[tuple[str, int]] = []
    for subtype, n_left in n_of_subtype.items():
        while n_left:
            count = min(n_left, 1 + int(rng.choice(4, p=IMAGES_PER_PATIENT)))
            people.append((subtype, count))
            n_left -= count
    patients = []
    for index, position in enumerate(rng.permutation(len(people))):
        subtype, count = people[position]
        sex = "F" if rng.random() < 0.47 else "M"
        age = int(np.clip(rng.normal(52, 18), 18, 92))
        label = int(subtype != "normal")
        patients.append(Patient(index, f"P{index:04d}", label, subtype, sex, age, count, seed))
    return patients


def render(patient: Patient) -> list[Radiograph]:
    """The radiographs of one patient.

    The result depends only on the patient: patients can be rendered in any order and in any process, with the same
    bytes. Anatomy and disease belong to the patient, pose and exposure to each image.
    """
    return _render(patient, diseased=True)


def generate(n_images: int, seed: int) -> Iterator[Radiograph]:
    """All radiographs of `plan(n_images, seed)`, rendered one patient at a time in plan order."""
    for patient in plan(n_images, seed):
        yield from render(patient)


def transmission(thickness: Mapping[str, Map]) -> Map:
    """The fraction of primary photons that pass: exp(-sum of attenuation x thickness) (Beer-Lambert).

    Args:
        thickness: cm along the ray for each material of ATTENUATION, maps of one shape.

    Returns:
        float32 map, 0-1.

    >>> half_value_layer = np.log(2) / ATTENUATION["soft"]
    >>> transmission({"soft": np.full((1, 1), half_value_layer, np.float32)}).round(3).tolist()
    [[0.5]]
    """
    total = sum(np.float32(ATTENUATION[material]) * along_ray for material, along_ray in thickness.items())
    return np.exp(-np.asarray(total, np.float32))


# --- anatomy, disease and exposure -----------------------------------------------------------------------------------


class Anatomy(NamedTuple):
    """One patient's body. Lengths in cm."""

    chest: float  # half-width of the rib cage
    depth: float  # front to back inside the rib cage
    wall: float  # chest wall outside the ribs
    lung_height: float  # apex to the right dome
    dome_step: float  # how much lower the left dome is
    air: float  # fraction of the lung's volume that is aerated parenchyma as in ATTENUATION
    heart: float  # scale of the cardiac silhouette
    heart_tilt: float  # radians
    aorta: float  # radius of the aortic knob
    breast: float  # thickness of the breast shadows, 0 = none
    breast_place: tuple[float, float]
    markings: float  # prominence of vessels, 1 average
    bone: float  # density of the skeleton, 1 average
    rib_pitch: float
    rib_drop: float
    stomach: float  # thickness of the gastric air bubble, 0 = none
    vessels: tuple[Points, ...]  # per generation, segments (n, 2, 2) of (x, y)
    clutter: Map  # smooth noise, about unit variance: structure that is not modelled
    grain: Map  # fine noise, unit variance


class Lesion(NamedTuple):
    """A lobar consolidation, in lung coordinates (see LOBES) and cm."""

    side: int
    s: float
    h: float
    radius: tuple[float, float]
    fissure: tuple[float, float]
    thickness: float  # cm of air replaced by fluid at the centre
    softness: float  # width of the edge, relative to the radius
    mottle: float  # unevenness inside: lobules are filled to different degrees


class Disease(NamedTuple):
    """What pneumonia adds: consolidations, or the strength of an interstitial pattern in the right and left lung."""

    lesions: tuple[Lesion, ...]
    interstitial: tuple[float, float]  # cm
    coarseness: float
    patchiness: Map  # smooth noise, about unit variance
    web: Map  # band-limited noise, about unit variance: filled and spared lobules


class Exposure(NamedTuple):
    """Pose, beam and processing of one image."""

    view: str
    width: int
    height: int
    pitch: float  # cm per pixel at the patient
    tilt: float  # radians in the image plane
    shift: tuple[float, float]  # cm
    turn: float  # sine of the rotation about the body's axis
    inspiration: float  # cm by which the domes are lower than at average inspiration
    photons: float  # per pixel in the open beam
    scatter: float  # scatter-to-primary ratio
    blur: float  # pixels
    sharpen: float  # edge enhancement
    equalise: float  # part of the coarse brightness that processing removes
    level: float
    contrast: float
    severity: float  # of disease at the time of this image, 1 average
    shutter: tuple[int, int, int, int]  # pixels masked left, top, right, bottom
    marker: tuple[str, float, float, float]  # glyph, x and y as fractions of the image, size
    leads: tuple[Points, ...]  # ECG leads and tubes, cm


def _anatomy(patient: Patient, rng: np.random.Generator) -> Anatomy:
    female = patient.sex == "F"
    years = (patient.age - 50) / 20
    chest = rng.normal(12.9 if female else 14.0, 0.7)
    return Anatomy(
        chest=chest,
        depth=rng.normal(16.5, 1.3),
        wall=float(np.clip(rng.normal(2.6, 0.9), 1.2, 5.5)),
        lung_height=rng.normal(21.0 if female else 22.3, 1.1),
        dome_step=rng.normal(1.3, 0.5),
        air=float(np.clip(rng.normal(0.92, 0.05), 0.75, 1.0)),
        heart=float(np.clip(rng.normal(0.96 + 0.02 * years, 0.08), 0.75, 1.25)),
        heart_tilt=rng.normal(0.62, 0.12),
        aorta=float(np.clip(rng.normal(1.75 + 0.2 * years, 0.25), 1.2, 2.8)),
        breast=float(np.clip(rng.normal(3.2, 1.4), 0.6, 7.0)) if female else float(max(0.0, rng.normal(0.0, 0.5))),
        breast_place=(rng.normal(7.6, 0.6), rng.normal(15.2, 1.3)),
        markings=float(np.exp(rng.normal(0.0, 0.28))),
        bone=float(np.clip(rng.normal(1.0 - 0.08 * years, 0.12), 0.6, 1.4)),
        rib_pitch=rng.normal(2.2, 0.08),
        rib_drop=rng.normal(8.0, 0.7),
        stomach=float(rng.uniform(2.0, 5.0)) if rng.random() < 0.5 else 0.0,
        vessels=_vessel_tree(chest, rng),
        clutter=_noise_field(rng, 6) + np.float32(0.5) * _noise_field(rng, 14),
        grain=_noise_field(rng, 60),
    )


def _vessel_tree(chest: float, rng: np.random.Generator) -> tuple[Points, ...]:
    """Pulmonary vessels: straight segments that fork five times from each hilum, thinner at each generation."""
    generations: list[list[list[list[float]]]] = [[] for _ in range(5)]
    for side in (-1.0, 1.0):
        angles = np.linspace(-1.25, 1.35, 9) + rng.normal(0, 0.10, 9)
        tips = [(side * rng.normal(3.6, 0.3), 10.3 + 1.6 * np.sin(a) + rng.normal(0, 0.4), a) for a in angles]
        for depth, segments in enumerate(generations):
            grown = []
            for x, y, angle in tips:
                length = rng.uniform(1.6, 2.9) * chest / 13.5 * 0.88**depth
                x_end, y_end = x + side * length * np.cos(angle), y + length * np.sin(angle)
                segments.append([[x, y], [x_end, y_end]])
                spread = rng.uniform(0.18, 0.55)
                grown += [(x_end, y_end, angle - spread), (x_end, y_end, angle + spread * rng.uniform(0.4, 1.2))]
            # A full binary tree would be too dense at the lung's edge, so some branches end.
            tips = [tip for tip in grown if rng.random() < 0.80]
    return tuple(np.array(segments, np.float32).reshape(-1, 2, 2) for segments in generations)


def _noise_field(rng: np.random.Generator, cells: int) -> Map:
    """Smooth noise of unit variance on the patient's FIELD_CM square, float32 (FIELD_SIZE, FIELD_SIZE)."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    field = cv2.resize(coarse, (FIELD_SIZE, FIELD_SIZE), interpolation=cv2.INTER_CUBIC)
    return np.asarray((field - field.mean()) / field.std(), np.float32)


def _disease(patient: Patient, rng: np.random.Generator) -> Disease | None:
    if patient.subtype == "normal":
        return None
    lesions: list[Lesion] = []
    interstitial = (0.0, 0.0)
    if patient.subtype == "bacteria":
        first = str(rng.choice(list(LOBES)))
        # A second focus is in the other lung, so that the two boxes do not merge.
        others = [name for name in LOBES if LOBES[name][0] != LOBES[first][0]]
        names = [first, str(rng.choice(others))] if rng.random() < 0.2 else [first]
        for name in names:
            side, (s_low, s_high), (h_low, h_high), fissure = LOBES[name]
            radius = rng.uniform(3.0, 5.9)
            lesions.append(
                Lesion(
                    side=side,
                    s=rng.uniform(s_low, s_high),
                    h=rng.uniform(h_low, h_high),
                    radius=(radius, radius * rng.uniform(0.7, 1.25)),
                    fissure=fissure,
                    thickness=float(np.clip(np.exp(rng.normal(1.68, 0.42)), 1.5, 12.0)),
                    softness=rng.uniform(0.35, 0.8),
                    mottle=rng.uniform(0.18, 0.42),
                )
            )
    else:
        strength = float(np.clip(np.exp(rng.normal(1.42, 0.38)), 1.2, 8.0))
        interstitial = (strength * rng.uniform(0.7, 1.2), strength * rng.uniform(0.7, 1.2))
    web = np.float32(0.8) * _noise_field(rng, int(rng.integers(44, 66))) + np.float32(0.6) * _noise_field(rng, 96)
    patchiness = np.float32(0.85) * _noise_field(rng, 9) + np.float32(0.5) * _noise_field(rng, 22)
    return Disease(tuple(lesions), interstitial, rng.uniform(0.5, 1.0), patchiness, web)


def _exposure(rng: np.random.Generator) -> Exposure:
    width = int(rng.integers(300, 341))
    height = int(width * rng.uniform(0.86, 1.14))
    field = rng.uniform(31.5, 38.0)
    shutter = tuple(int(v) for v in rng.integers(3, 14, 4) * (rng.random(4) < 0.6)) if rng.random() < 0.35 else (0,) * 4
    glyph = "L" if rng.random() < 0.5 else "R"
    x = rng.uniform(0.80, 0.90) if glyph == "L" else rng.uniform(0.05, 0.14)
    y = rng.uniform(0.06, 0.20) if rng.random() < 0.8 else rng.uniform(0.80, 0.94)
    leads = [_lead(rng) for _ in range(int(rng.integers(1, 4)))] if rng.random() < 0.3 else []
    return Exposure(
        view="AP" if rng.random() < 0.35 else "PA",
        width=width,
        height=height,
        pitch=field / width,
        tilt=rng.normal(0, 0.045),
        shift=(rng.normal(0, 0.9), rng.normal(0, 1.0)),
        turn=float(np.clip(rng.normal(0, 0.08), -0.2, 0.2)),
        inspiration=float(np.clip(rng.normal(0, 1.3), -3.2, 2.2)),
        photons=float(np.exp(rng.normal(np.log(35000), 0.5))),
        scatter=rng.uniform(0.08, 0.4),
        blur=rng.uniform(0.45, 0.95),
        sharpen=rng.uniform(0.4, 1.1),
        equalise=rng.uniform(0.25, 0.55),
        level=rng.normal(0, 0.06),
        contrast=rng.uniform(0.85, 1.2),
        severity=float(np.exp(rng.normal(0, 0.18))),
        shutter=(shutter[0], shutter[1], shutter[2], shutter[3]),
        marker=(glyph, x, y, rng.uniform(0.55, 0.95)),
        leads=tuple(leads),
    )


def _lead(rng: np.random.Generator) -> Points:
    """A wire or tube over the chest: a smooth curve between two points, float32 (24, 2) of (x, y) in cm."""
    start = np.array([rng.uniform(-12, 12), -6.0])
    end = np.array([rng.uniform(-13, 13), rng.uniform(5, 20)])
    bend = (start + end) / 2 + rng.normal(0, 4.0, 2)
    t = np.linspace(0, 1, 24)[:, None]
    return np.asarray((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end, np.float32)


# --- thickness of materials along each ray ---------------------------------------------------------------------------


class Frame(NamedTuple):
    """Position of each pixel in the patient, and the transforms in both directions."""

    x: Map
    y: Map
    to_cm: NDArray[np.float64]  # (2, 3), pixels to cm
    to_pixels: NDArray[np.float64]  # (2, 3), cm to pixels
    shape: tuple[int, int]


class Lungs(NamedTuple):
    """Lung geometry on the pixels of one image."""

    chord: Map  # cm of lung along the ray, without heart and great vessels
    s: Map  # 0 at the mediastinum, 1 at the chest wall
    h: Map  # 0 at the apex, 1 at the dome
    mask: NDArray[np.bool_]
    edge: Map  # half-width of the rib cage in this row
    dome: Map  # y of the diaphragm at this x


def _render(patient: Patient, *, diseased: bool) -> list[Radiograph]:
    """`render`, or the same patient without disease; anatomy, disease and each image have separate generators."""
    body_rng, disease_rng, *image_rngs = np.random.default_rng([patient.seed, patient.index]).spawn(
        2 + patient.n_images
    )
    anatomy = _anatomy(patient, body_rng)
    disease = _disease(patient, disease_rng) if diseased else None
    radiographs = []
    for number, rng in enumerate(image_rngs, start=1):
        exposure = _exposure(rng)
        image, mask, boxes = _radiograph(anatomy, disease, exposure, rng)
        radiographs.append(
            Radiograph(
                f"{patient.patient_id}-{number}",
                patient.patient_id,
                patient.label,
                patient.subtype,
                patient.sex,
                patient.age,
                exposure.view,
                image,
                mask,
                boxes,
            )
        )
    return radiographs


def _radiograph(
    anatomy: Anatomy, disease: Disease | None, exposure: Exposure, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[tuple[int, int, int, int], ...]]:
    """One image, its lung mask and its boxes."""
    frame = _frame(exposure)
    lungs = _lungs(frame, anatomy, exposure)
    vessels = _vessels(frame, anatomy)
    opacity = np.zeros(frame.shape, np.float32)
    boxes: list[tuple[int, int, int, int]] = []
    visible = np.zeros(frame.shape, np.bool_)
    left, top, right, bottom = exposure.shutter
    visible[top : frame.shape[0] - bottom, left : frame.shape[1] - right] = True
    if disease is not None:
        for part in _opacities(frame, lungs, vessels, disease, exposure):
            opacity += part
            boxes += _boxes(part, lungs.mask & visible)
    primary = transmission(_thickness(frame, lungs, anatomy, exposure, vessels, opacity))
    signal = _detect(primary, exposure, rng)
    image = _display(signal, exposure)
    image[~visible] = 0
    mask = np.where(lungs.mask & visible, np.uint8(255), np.uint8(0))
    return image, mask, tuple(boxes)


def _frame(exposure: Exposure) -> Frame:
    shape = (exposure.height, exposure.width)
    columns, rows = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    cos, sin = np.cos(exposure.tilt) * exposure.pitch, np.sin(exposure.tilt) * exposure.pitch
    # The centre of the film is at the heart's upper border, y = 11.8 cm.
    x0 = exposure.shift[0] - (cos * (shape[1] - 1) - sin * (shape[0] - 1)) / 2
    y0 = exposure.shift[1] + 11.8 - (sin * (shape[1] - 1) + cos * (shape[0] - 1)) / 2
    to_cm = np.array([[cos, -sin, x0], [sin, cos, y0]])
    x = np.float32(cos) * columns - np.float32(sin) * rows + np.float32(x0)
    y = np.float32(sin) * columns + np.float32(cos) * rows + np.float32(y0)
    return Frame(x, y, to_cm, np.asarray(cv2.invertAffineTransform(to_cm)), shape)


def _lungs(frame: Frame, anatomy: Anatomy, exposure: Exposure) -> Lungs:
    x, y = frame.x, frame.y
    side = np.sign(x)
    reach = np.abs(x)
    edge = _cage(y, anatomy)
    medial = np.float32(1.35) + np.float32(0.02) * np.maximum(y, 0)
    s = (reach - medial) / np.maximum(edge - medial, np.float32(0.5))

    left = x > 0
    top = anatomy.lung_height + exposure.inspiration + np.where(left, np.float32(anatomy.dome_step), np.float32(0))
    across = (reach - np.float32(0.47 * anatomy.chest)) / np.float32(0.53 * anatomy.chest)
    dome = np.asarray(top, np.float32) + np.where(across > 0, np.float32(4.6), np.float32(2.2)) * across**2

    round_chest = np.sqrt(np.clip(1 - (reach / np.maximum(edge, np.float32(0.1))) ** 2, 0, 1))
    chord = np.float32(anatomy.depth) * np.minimum(1, edge / np.float32(anatomy.chest)) * round_chest
    chord *= _smoothstep(s / np.float32(0.18))
    # Behind the dome the posterior recess still contains lung: the shadow below the diaphragm's edge is not uniform.
    above = _smoothstep((dome - y) / np.float32(0.7))
    recess = _smoothstep((dome + np.float32(4.0) - y) / np.float32(4.0))
    chord *= np.float32(0.90) * above + np.float32(0.10) * recess
    # In a rotated chest one lung is larger and darker.
    chord *= 1 + np.float32(exposure.turn) * side

    displaced = np.minimum(_heart_chord(frame, anatomy, exposure), np.float32(0.9) * chord)
    chord = chord - displaced
    mask = (chord > 2.0) & (s > 0.02) & (s < 1) & (y < dome) & (displaced < 0.5 * (chord + displaced))
    return Lungs(chord, s, y / np.maximum(dome, 1), mask, edge, dome)


def _cage(y: Map, anatomy: Anatomy) -> Map:
    """Half-width of the rib cage at height y, cm: a bell, widest at the sixth rib and of constant width below."""
    fall = np.clip(1 - y / np.float32(15.5), 0, 1)
    bell = np.float32(anatomy.chest) * np.clip(1 - fall**2.3, 0, 1) ** np.float32(0.45)
    return np.where(y > 0, bell, np.float32(0))


def _heart_chord(frame: Frame, anatomy: Anatomy, exposure: Exposure) -> Map:
    """Cm of heart, great vessels and hila along the ray."""
    scale = anatomy.heart * (1.12 if exposure.view == "AP" else 1.0)
    slide = 5.0 * exposure.turn  # the heart lies in front of the axis
    wide = scale * (1 - 0.025 * exposure.inspiration)
    # The heart rests on the diaphragm and moves with it.
    rest = anatomy.lung_height + 0.7 * anatomy.dome_step + 0.75 * exposure.inspiration
    cavities = (  # x, y, semi-axes along and across, direction, half depth
        (2.7 + slide, rest - 4.4 * scale, 6.5 * wide, 4.6 * scale, anatomy.heart_tilt, 7.0),
        (-1.2 + slide, rest - 5.0 * scale, 5.0 * scale, 3.4 * wide, 1.45, 6.4),
        (1.9 + slide / 2, 6.8, 1.25 * anatomy.aorta, anatomy.aorta, 1.2, 3.2),
        (2.3 + slide, 10.2, 3.2, 2.0, 1.0, 3.4),
        (-0.9 + slide, 8.5, 6.0, 1.9, 1.52, 3.2),
        (0.6 + slide, 12.0, 5.5, 3.2, 1.3, 4.5),
    )
    total = np.zeros(frame.shape, np.float32)
    for cavity in cavities:
        window, chord = _ellipsoid(frame, *cavity)
        total[window] = np.maximum(total[window], chord)
    for cx, cy in ((-3.7, 10.9), (3.9, 10.1)):
        window = _window(frame, cx, cy, 4.5)
        dx, dy = frame.x[window] - np.float32(cx), frame.y[window] - np.float32(cy)
        total[window] += np.float32(1.8 * anatomy.markings) * np.exp(-(dx * dx) / 1.4 - dy * dy / 4.5)
    return total


def _ellipsoid(
    frame: Frame, cx: float, cy: float, along: float, across: float, angle: float, depth: float
) -> tuple[tuple[slice, slice], Map]:
    """Chord of an ellipsoid, cm, and the window of the image that contains it; `depth`: its half axis along the ray."""
    window = _window(frame, cx, cy, max(along, across))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy = frame.x[window] - np.float32(cx), frame.y[window] - np.float32(cy)
    u, v = (cos * dx + sin * dy) / np.float32(along), (cos * dy - sin * dx) / np.float32(across)
    return window, np.float32(2 * depth) * np.sqrt(np.clip(1 - u * u - v * v, 0, 1))


def _window(frame: Frame, cx: float, cy: float, reach: float, up: float | None = None) -> tuple[slice, slice]:
    """Rows and columns of the box (cx +- reach, cy +- up) cm, clipped to the image (empty if it lies outside)."""
    corners = [(cx + dx * reach, cy + dy * (reach if up is None else up)) for dx in (-1, 1) for dy in (-1, 1)]
    pixels = np.array(corners) @ frame.to_pixels[:, :2].T + frame.to_pixels[:, 2]
    (left, top), (right, bottom) = pixels.min(axis=0).tolist(), pixels.max(axis=0).tolist()
    height, width = frame.shape
    rows = slice(min(height, max(0, int(top))), min(height, max(0, int(bottom) + 2)))
    return rows, slice(min(width, max(0, int(left))), min(width, max(0, int(right) + 2)))


def _thickness(
    frame: Frame, lungs: Lungs, anatomy: Anatomy, exposure: Exposure, vessels: Map, opacity: Map
) -> dict[str, Map]:
    """Cm of each material along each ray. The rest of the body is soft tissue."""
    x, y = frame.x, frame.y
    reach = np.abs(x)
    trunk_width = np.where(y > 6, np.maximum(lungs.edge, 0.96 * anatomy.chest), anatomy.chest) + anatomy.wall
    trunk = np.float32(anatomy.depth + 1.3 * anatomy.wall) * np.sqrt(np.clip(1 - (reach / trunk_width) ** 2, 0, 1))
    trunk *= _smoothstep((y + np.float32(4.0)) / np.float32(7.0))
    flare = np.float32(5.6) + np.float32(5.0) * _smoothstep((y + np.float32(8.5)) / np.float32(8.0))
    neck = np.float32(12.0) * np.sqrt(np.clip(1 - (x / flare) ** 2, 0, 1))
    neck *= _smoothstep((np.float32(6.0) - y) / np.float32(8.0))
    slope = np.float32(-6.0) + np.float32(0.32) * np.maximum(reach - 5, 0)
    armpit = np.float32(10.5 + anatomy.wall) - np.float32(0.15) * reach
    across = (2 * y - slope - armpit) / np.maximum(armpit - slope, 1)
    shoulder = np.float32(10.5) * np.sqrt(np.clip(1 - across**2, 0, 1))
    trunk, neck, shoulder = trunk * trunk, neck * neck, shoulder * shoulder
    body = np.sqrt(np.sqrt(trunk * trunk + neck * neck + shoulder * shoulder))
    body *= 1 + np.float32(0.015) * _sample(anatomy.clutter, frame)

    marbled = 1 + np.float32(0.055) * _sample(anatomy.clutter, frame) + np.float32(0.02) * _sample(anatomy.grain, frame)
    parenchyma = np.float32(anatomy.air * (1 + 0.012 * exposure.inspiration)) * marbled * lungs.chord
    lung = np.maximum(parenchyma - np.minimum(vessels, 0.5 * parenchyma) - opacity, 0)
    cortical, spongy = _bones(frame, anatomy, exposure)
    fat = _breasts(frame, anatomy, body)
    air = _airways(frame, lungs, anatomy, exposure)
    lead = _lead_objects(frame, exposure)
    soft = np.maximum(body - lung - cortical - spongy - air, 0)
    return {
        "soft": soft,
        "lung": lung,
        "cortical": cortical,
        "spongy": spongy,
        "fat": fat,
        "air": air,
        "lead": lead,
    }


def _vessels(frame: Frame, anatomy: Anatomy) -> Map:
    """Cm of blood in the lung's vessels: the chord of a cylinder is pi/4 of its diameter on average."""
    canvas = np.zeros(frame.shape, np.uint8)
    per_cm = 1 / float(np.hypot(frame.to_cm[0, 0], frame.to_cm[1, 0]))
    for generation in reversed(range(len(anatomy.vessels))):
        diameter = 0.62 * 0.72**generation
        pixels = list(_to_fixed_point(anatomy.vessels[generation], frame))
        width = max(1, round(diameter * per_cm * 0.8))
        cv2.polylines(canvas, pixels, False, float(min(255, 255 * diameter)), width, cv2.LINE_AA, shift=FIXED_BITS)
    canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), 0.8))
    return np.float32(1.9 * anatomy.markings * np.pi / 4 / 255) * canvas.astype(np.float32)


def _to_fixed_point(points: Points, frame: Frame) -> NDArray[np.int32]:
    """Cm to OpenCV's fixed-point pixels, int32 (..., 2)."""
    pixels = points @ frame.to_pixels[:, :2].T + frame.to_pixels[:, 2]
    return np.asarray(np.round(pixels * 2**FIXED_BITS), np.int32)


def _bones(frame: Frame, anatomy: Anatomy, exposure: Exposure) -> tuple[Map, Map]:
    """Cm of cortical and of spongy bone: ribs, clavicles, scapulae, spine."""
    cortical = np.zeros(frame.shape, np.float32)
    spongy = np.zeros(frame.shape, np.float32)
    back, front = _ribs(anatomy, exposure)
    # Towards the sternum ribs become cartilage, which is hardly visible.
    bony = _smoothstep((np.abs(frame.x) - np.float32(0.48 * anatomy.chest)) / np.float32(0.28 * anatomy.chest))
    # Bones of one group are drawn into one 8-bit image (OpenCV antialiases only these); groups are added, like shadows.
    for outlines, inside, shell, fade in (
        (back, 0.8, 0.42, None),
        (front, 0.55, 0.30, bony),
        (_girdle(anatomy, exposure), 1.0, 0.5, None),
    ):
        filled = np.zeros(frame.shape, np.uint8)
        rim = np.zeros(frame.shape, np.uint8)
        for outline in outlines:
            pixels = _to_fixed_point(outline, frame)
            cv2.fillPoly(filled, [pixels], 255.0, cv2.LINE_AA, FIXED_BITS)
            cv2.polylines(rim, [pixels], True, 255.0, 1, cv2.LINE_AA, FIXED_BITS)
        solid = filled.astype(np.float32)
        edge = cv2.GaussianBlur(rim, (0, 0), 0.9).astype(np.float32)
        if fade is not None:
            solid *= fade
            edge *= fade
        spongy += np.float32(inside * anatomy.bone / 255) * solid
        cortical += np.float32(shell * anatomy.bone / 255) * (np.float32(0.5) * solid + edge)

    # The spine lies behind the body's axis: rotation moves it opposite to the heart.
    middle = -6.0 * exposure.turn
    window = _window(frame, middle, 11.8, 3.0, up=40.0)
    offset = np.abs(frame.x[window] - np.float32(middle))
    column = _smoothstep((np.float32(2.0) - offset) / np.float32(0.5))
    level = np.cos(np.float32(2 * np.pi / 2.35) * (frame.y[window] + np.float32(0.6)))
    spongy[window] += (
        np.float32(2.6 * anatomy.bone) * column * (np.float32(0.86) + np.float32(0.14) * np.tanh(3 * level))
    )
    endplate = np.exp(-((level + np.float32(0.15)) ** 2) / np.float32(0.06))
    pedicles = np.exp(-((offset - np.float32(1.25)) ** 2) / np.float32(0.12) - (level - 1) ** 2 / np.float32(0.35))
    cortical[window] += np.float32(anatomy.bone) * (np.float32(0.16) * column * endplate + np.float32(0.45) * pedicles)
    return cortical, spongy


def _ribs(anatomy: Anatomy, exposure: Exposure) -> tuple[Points, Points]:
    """Outlines in cm of the back and the front halves of ten pairs of ribs, each float32 (20, n, 2).

    A rib is half an ellipse around the chest, tilted forwards. In the frontal view its back half runs outwards from the
    spine; its front half returns lower and ends where cartilage begins, at about .85 pi.
    """
    number = np.arange(10)[:, None, None]
    side = np.array([-1, 1])[:, None]
    start = -1.4 + anatomy.rib_pitch * number + 0.15 * exposure.inspiration
    drop = anatomy.rib_drop * (0.38 + 0.62 * np.minimum(1, number / 5)) * (1 - 0.02 * exposure.inspiration)
    reach = _cage(np.maximum(0.6, start + drop / 2).astype(np.float32), anatomy) + 0.35
    halves = []
    for first, last, radius in ((0.035, 0.5, 0.5), (0.5, 0.84, 0.58)):
        t = np.linspace(first * np.pi, last * np.pi, 28)
        x = side * reach * np.sin(t) - 7.0 * exposure.turn * np.cos(t)
        y = start + drop * (1 - np.cos(t)) / 2 - 0.6 * np.sin(2 * t)
        line = np.stack(np.broadcast_arrays(x, y), axis=-1)
        halves.append(_tube(line.reshape(20, 28, 2), radius))
    return halves[0], halves[1]


def _girdle(anatomy: Anatomy, exposure: Exposure) -> list[Points]:
    """Outlines of clavicles, scapulae and humeral heads."""
    outlines: list[Points] = []
    t = np.linspace(0, 1, 28)
    round_the_clock = 2 * np.pi * t[:-1]
    blade = np.array([[11.4, -0.2], [17.0, -2.0], [17.3, 1.2], [14.6, 9.5], [13.6, 11.3], [12.6, 9.0]])
    wide = anatomy.chest / 13.5
    for side in (-1, 1):
        x = side * (1.6 + 14.4 * t) + 6.0 * exposure.turn
        y = 2.0 - 4.2 * t - 0.9 * np.sin(2 * np.pi * t)
        outlines.append(_tube(np.stack([x, y], axis=1), 0.62 + 0.18 * np.cos(2 * np.pi * t)))
        outlines.append(np.asarray(blade * [side * wide, 1] + [side * 0.9 * wide, 0.4], np.float32))
        head = np.stack([side * 18.6 + 2.4 * np.cos(round_the_clock), 0.4 + 2.5 * np.sin(round_the_clock)], axis=1)
        outlines.append(np.asarray(head, np.float32))
    return outlines


def _tube(line: NDArray[np.float64], radius: float | NDArray[np.float64]) -> Points:
    """Outlines of tubes round lines (..., n, 2), float32 (..., 2n, 2)."""
    along = np.gradient(line, axis=-2)
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    normal = along[..., ::-1] * [-1, 1] * np.reshape(radius, (-1, 1))
    return np.concatenate([line + normal, (line - normal)[..., ::-1, :]], axis=-2).astype(np.float32)


def _breasts(frame: Frame, anatomy: Anatomy, body: Map) -> Map:
    """Cm of breast: with an edge below, without one above, and inside the body only."""
    total = np.zeros(frame.shape, np.float32)
    if anatomy.breast < 0.3:
        return total
    across, down = anatomy.breast_place
    size = 4.6 + 0.2 * anatomy.breast
    for side in (-1, 1):
        window, chord = _ellipsoid(frame, side * across, down, 1.15 * size, size, side * 0.4, anatomy.breast / 2)
        chord *= _smoothstep((frame.y[window] - np.float32(down - size)) / np.float32(1.6 * size))
        total[window] += chord * _smoothstep(body[window] / np.float32(9.0))
    return total


def _airways(frame: Frame, lungs: Lungs, anatomy: Anatomy, exposure: Exposure) -> Map:
    """Cm of air in trachea, main bronchi and stomach."""
    slide = 1.5 * exposure.turn
    canvas = np.zeros(frame.shape, np.uint8)
    for reach, end in ((-3.6, 11.6), (4.2, 12.2)):
        bronchus = np.array([[0.2 + slide, 9.0], [reach * 0.5 + slide, 10.4], [reach + slide, end]], np.float32)
        cv2.polylines(canvas, [_to_fixed_point(bronchus, frame)], False, 255.0, 9, cv2.LINE_AA, FIXED_BITS)
    air = np.asarray(np.float32(0.9 / 255) * cv2.GaussianBlur(canvas, (0, 0), 1.6), np.float32)
    window = _window(frame, 0.2 + slide, -10.0, 1.0, up=20.0)
    trachea = 2 * np.sqrt(np.clip(np.float32(0.75) - (frame.x[window] - np.float32(0.2 + slide)) ** 2, 0, 1))
    trachea *= _smoothstep((np.float32(9.6) - frame.y[window]) / np.float32(0.8))
    air[window] = np.maximum(air[window], trachea)
    if anatomy.stomach:
        top = anatomy.lung_height + exposure.inspiration + anatomy.dome_step
        window, bubble = _ellipsoid(frame, 6.5, top + 3.0, 3.0, 1.7, 0.1, anatomy.stomach / 2)
        bubble *= _smoothstep((frame.y - lungs.dome - np.float32(0.6))[window] / np.float32(0.6))
        air[window] = np.maximum(air[window], bubble)
    return air


def _lead_objects(frame: Frame, exposure: Exposure) -> Map:
    """Equivalent cm of lead: the side marker, wires and electrodes."""
    canvas = np.zeros(frame.shape, np.uint8)
    for lead in exposure.leads:
        pixels = _to_fixed_point(lead, frame)
        cv2.polylines(canvas, [pixels], False, 90.0, 1, cv2.LINE_AA, FIXED_BITS)
        cx, cy = (int(v) for v in pixels[-1])
        cv2.circle(canvas, (cx, cy), 4 * 2**FIXED_BITS, 110.0, 2, cv2.LINE_AA, FIXED_BITS)
    glyph, x, y, size = exposure.marker
    place = (int(x * frame.shape[1]), int(y * frame.shape[0]))
    cv2.putText(canvas, glyph, place, cv2.FONT_HERSHEY_SIMPLEX, size, 255.0, 2, cv2.LINE_AA)
    return np.asarray(np.float32(0.045 / 255) * canvas, np.float32)


# --- disease ---------------------------------------------------------------------------------------------------------


def _opacities(frame: Frame, lungs: Lungs, vessels: Map, disease: Disease, exposure: Exposure) -> list[Map]:
    """Cm of air replaced by fluid, one map per box: each consolidation, or the pattern in each lung."""
    patchy = _sample(disease.patchiness, frame)
    web = _sample(disease.web, frame)
    opacities = [_consolidation(frame, lungs, lesion, patchy, web) for lesion in disease.lesions]
    if any(disease.interstitial):
        pattern = _interstitium(frame, lungs, vessels, disease, patchy, web)
        for side, strength in zip((-1, 1), disease.interstitial, strict=True):
            opacities.append(np.where(frame.x * side > 0, np.float32(strength) * pattern, np.float32(0)))
    # Not more fluid than lung: the shadow is weaker where the lung is thinner.
    room = np.maximum(np.float32(0.9) * lungs.chord, np.float32(0.01))
    return [room * np.tanh(np.float32(exposure.severity) * fluid / room) for fluid in opacities]


def _consolidation(frame: Frame, lungs: Lungs, lesion: Lesion, patchy: Map, web: Map) -> Map:
    """A dense opacity in one lobe: soft irregular edge, straight at a fissure, mottled inside."""
    half = frame.x * lesion.side > 0
    distance = (lungs.s - np.float32(lesion.s)) ** 2 + np.float32(4) * (lungs.h - np.float32(lesion.h)) ** 2
    nearest = int(np.argmin(np.where(half & lungs.mask, distance, np.float32(np.inf))))
    row, column = divmod(nearest, frame.shape[1])
    dx = (frame.x - frame.x[row, column]) / np.float32(lesion.radius[0])
    dy = (frame.y - frame.y[row, column]) / np.float32(lesion.radius[1])
    radius = np.sqrt(dx * dx + dy * dy) + np.float32(0.22) * patchy
    shape = _smoothstep((np.float32(1 + lesion.softness / 2) - radius) / np.float32(lesion.softness))
    low, high = lesion.fissure
    slanted = lungs.h + np.float32(0.06) * (lungs.s - np.float32(0.5))
    lobe = _smoothstep((slanted - np.float32(low) + np.float32(0.02)) / np.float32(0.04))
    lobe *= _smoothstep((np.float32(high) + np.float32(0.02) - slanted) / np.float32(0.04))
    mottle = np.maximum(1 + np.float32(lesion.mottle) * web + np.float32(0.12) * patchy, np.float32(0.1))
    return np.float32(lesion.thickness) * shape * lobe * mottle * half


def _interstitium(frame: Frame, lungs: Lungs, vessels: Map, disease: Disease, patchy: Map, web: Map) -> Map:
    """Haze, thickened bronchovascular sheaths and a fine net, in patches, mainly around the hila and at the bases."""
    hilar = np.exp(-(((np.abs(frame.x) - 5.0) / 5.0) ** 2) - ((frame.y - 12.5) / 6.0) ** 2)
    spread = hilar + np.float32(0.4) * np.clip(lungs.h, 0, 1)
    where = spread * _smoothstep((patchy + np.float32(1.3)) / np.float32(2.2))
    sheaths = np.asarray(cv2.GaussianBlur(vessels, (0, 0), 1.8))
    net = np.exp(-((web / np.float32(0.75)) ** 2))
    fine = np.float32(disease.coarseness) * (np.float32(0.75) * net + np.float32(0.6) * sheaths)
    return np.asarray(where * (np.float32(1 - 0.4 * disease.coarseness) + fine), np.float32)


def _boxes(opacity: Map, mask: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """The rectangle around the part with at least .35 of the opacity's peak, pixels; none if nothing is visible."""
    smooth = np.asarray(cv2.GaussianBlur(opacity, (0, 0), 2.5)) * mask
    peak = float(smooth.max())
    if peak < 0.05:
        return []
    x, y, width, height = cv2.boundingRect((smooth > 0.35 * peak).astype(np.uint8))
    return [(int(x), int(y), int(width), int(height))]


# --- from photons to gray levels -------------------------------------------------------------------------------------


def _detect(primary: Map, exposure: Exposure, rng: np.random.Generator) -> Map:
    """Photons counted per pixel, relative to the open beam: scatter, Poisson noise, detector blur."""
    # Scatter spreads over centimetres, so it is computed on a small image.
    small = cv2.resize(primary, (32, 32), interpolation=cv2.INTER_AREA)
    haze = cv2.resize(cv2.GaussianBlur(small, (0, 0), 3.5), primary.shape[::-1], interpolation=cv2.INTER_LINEAR)
    expected = np.float32(exposure.photons) * (primary + np.float32(exposure.scatter) * np.asarray(haze, np.float32))
    counted = rng.poisson(expected).astype(np.float32)
    blurred = cv2.GaussianBlur(counted, (0, 0), exposure.blur)
    return np.asarray(blurred, np.float32) / np.float32(exposure.photons)


def _display(signal: Map, exposure: Exposure) -> NDArray[np.uint8]:
    """8-bit image: logarithm, automatic window, edge enhancement and the S-shaped film curve."""
    density = -np.log(np.maximum(signal, np.float32(1e-4)))
    rows, columns = (slice(n // 6, n - n // 6, 3) for n in density.shape)
    dark, bright = np.percentile(density[rows, columns], (6, 96))
    grey = (density - np.float32(dark)) / np.float32(max(float(bright - dark), 0.3))
    small = cv2.GaussianBlur(cv2.resize(np.clip(grey, -1, 1.5), (40, 40), interpolation=cv2.INTER_AREA), (0, 0), 4.0)
    coarse = np.asarray(cv2.resize(small, grey.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    fine = grey - np.asarray(cv2.GaussianBlur(grey, (0, 0), 3.0))
    grey = grey + np.float32(exposure.sharpen) * fine - np.float32(exposure.equalise) * (coarse - np.float32(0.5))
    grey = np.float32(3.3 * exposure.contrast) * (grey - np.float32(0.48 + exposure.level))
    return np.asarray(np.round(255 / (1 + np.exp(-grey))), np.uint8)


def _smoothstep(t: Map) -> Map:
    """0 below 0, 1 above 1, a smooth cubic between."""
    t = np.clip(t, 0, 1)
    slope = np.float32(-2) * t
    slope += 3
    slope *= t
    slope *= t
    return slope


def _sample(field: Map, frame: Frame) -> Map:
    """A per-patient noise field at the pixels of one image."""
    per_cm = FIELD_SIZE / FIELD_CM
    matrix = frame.to_cm * per_cm
    matrix[:, 2] += FIELD_SIZE / 2 + np.array([0.0, -10.5 * per_cm])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = frame.shape[::-1]
    return np.asarray(cv2.warpAffine(field, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT), np.float32)
