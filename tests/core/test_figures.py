"""Figures as files: what is in them, the same bytes each time, and the odd cases."""

import io
import re
import sys
from collections.abc import Callable

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hiwl_core.augmentation import TrainTransform
from hiwl_core.cutouts import Preprocessing
from hiwl_core.decoding import decode_pixels
from hiwl_core.errors import UserError
from hiwl_core.explanation import HeatMap, Separation
from hiwl_core.figures import (
    AttentionExample,
    EmbeddingPanel,
    class_colors,
    draw_attention_grid,
    draw_augmentation_steps,
    draw_confusion_heat_map,
    draw_embedding_map,
    draw_learning_curves,
    figure_files,
)
from hiwl_core.figures.reliability_diagram import draw_reliability_diagram
from hiwl_core.probability_scores import score_probabilities
from hiwl_core.recipe_sections import Augmentation, RgbSettings
from tests.broken_inputs import fits_file
from tests.drawings import CLASSES, draw_galaxy

MATRIX = np.diag([812, 770, 37, 372, 766]) + np.eye(5, k=1, dtype=int) * 9
PREPROCESSING = Preprocessing(64, 32, (0.05, 0.04, 0.03), (0.1, 0.1, 0.1))
AUGMENTATION = Augmentation(
    center_crop=72,
    rotation=25,
    scale=(0.8, 1.0),
    aspect_ratio=(0.75, 1.33),
    horizontal_flip=0.5,
    vertical_flip=0.5,
)


def _epochs(count: int, classes: tuple[str, ...] = ("CRS", "IBS", "SPI", "CSS+EO")) -> pd.DataFrame:
    epochs = np.arange(1, count + 1)
    rising = 1 - 0.5 / epochs
    recalls = {f"val_recall_{name}": rising - 0.02 * index for index, name in enumerate(classes)}
    losses = {"train_loss": 1.1 / epochs, "val_loss": 1 / epochs}
    return pd.DataFrame({"epoch": epochs, **losses, "val_accuracy": rising, **recalls})


def _curves() -> Figure:
    epochs = {"stage1": _epochs(5), "stage2": _epochs(10, ("CSS", "EO"))}
    return draw_learning_curves(epochs, {"stage1": [3, 4, 5], "stage2": {7, 9}}, "A run")


def _panel(count: int = 60, classes: int = 5) -> EmbeddingPanel:
    rng = np.random.default_rng(0)
    truth = np.arange(count) % classes
    return EmbeddingPanel(rng.normal(size=(count, 2)) + 5 * truth[:, None], truth, Separation(0.91, 0.42))


def _embedding() -> Figure:
    panels = [[_panel(), _panel(30)], [_panel(), _panel(30, classes=3)]]
    return draw_embedding_map(panels, ["plain", "HIWL"], ["training", "validation"], CLASSES)


def _example(label: str, seed: int = 0, models: tuple[str, ...] = ("plain", "HIWL")) -> AttentionExample:
    cutout = decode_pixels(draw_galaxy(label, seed)).pixels
    y, x = np.mgrid[:32, :32] / 31
    maps = {
        name: HeatMap("stage1", "layer", cutout, cutout[8:40, 8:40], (x * y).astype(np.float32))
        for name in models
    }
    return AttentionExample(label, cutout, maps, f"galaxy {label}{seed}")


def _attention() -> Figure:
    examples = [_example(label, seed) for seed in range(2) for label in CLASSES]
    return draw_attention_grid(examples, ["plain", "HIWL"], CLASSES, "Where they look")


def _augmentation() -> Figure:
    return draw_augmentation_steps(draw_galaxy("SPI", 0), AUGMENTATION, PREPROCESSING, title="Galaxy 7")


def _confusion() -> Figure:
    return draw_confusion_heat_map(MATRIX, CLASSES, "HIWL")


def _curves_of_probabilities(sides: tuple[str, ...] = ("before", "after")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(5, 0.3), 400)
    truth = np.minimum((rng.random((400, 1)) > p.cumsum(axis=1)).sum(axis=1), 4)
    flattened = p**0.5 / (p**0.5).sum(axis=1, keepdims=True)
    given = {"before": flattened, "after": p}
    return score_probabilities(truth, CLASSES, **{side: given[side] for side in sides}).curves


def _reliability() -> Figure:
    return draw_reliability_diagram(_curves_of_probabilities(), "Trust")


FIGURES: dict[Callable[[], Figure], list[str]] = {
    _curves: ["A run", "Stage 1", "Stage 2", "loss", "epoch", "recall CSS+EO", "accuracy", "kept"],
    _embedding: ["plain", "HIWL", "training", "validation", "60 galaxies", "purity 0.910", *CLASSES],
    _attention: ["Where they look", "plain", "HIWL", "galaxy EO1", "evidence for the class", *CLASSES],
    _augmentation: ["Galaxy 7", "center crop", "72 × 72", "rotation", "normalization", "Other draws"],
    _reliability: ["Trust", "most probable class", "before calibration", "after calibration", *CLASSES],
    _confusion: ["HIWL", "CRS", "821", "98.9%", "predicted class", "true class"],
}


def _words(files: dict[str, bytes]) -> str:
    (svg,) = (content for name, content in files.items() if name.endswith(".svg"))
    return " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg.decode()))


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_files_of_figures(draw: Callable[[], Figure]) -> None:
    figure = draw()
    files = figure_files(figure, "shown")
    assert set(files) == {"shown.png", "shown.svg"}
    words = _words(files)
    assert [word for word in FIGURES[draw] if word not in words] == []
    with Image.open(io.BytesIO(files["shown.png"])) as image:
        width = image.width
        pixels = np.asarray(image.convert("L"))
    assert width >= 150 * figure.get_figwidth()
    # Something is on the page, and nothing runs over its edges.
    assert 0.005 < (pixels < 128).mean() < 0.95
    assert min(edge.min() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])) == 255
    # The same figure, drawn again: the same bytes.
    assert figure_files(draw(), "shown") == files
    assert not re.search(rb"<dc:date>|20[2-9]\d-\d\d-", files["shown.svg"])


def test_drawing_leaves_matplotlib_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(matplotlib.rcParams)
    files = figure_files(_curves(), "shown")
    assert dict(matplotlib.rcParams) == before
    # And does not depend on how that is.
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 25)
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "path")
    assert figure_files(_curves(), "shown") == files


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("hiwl_core.figures")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"need the package matplotlib: pip install 'hiwl\[figures\]'"):
        __import__("hiwl_core.figures")


def _marks(figure: Figure) -> list[list[float]]:
    return [
        list(line.get_xdata())
        for axes in figure.axes
        for line in axes.get_lines()
        if line.get_gid() == "kept"
    ]


def test_kept_epochs_are_marked() -> None:
    # Loss of both stages, then accuracy.
    assert _marks(_curves()) == [[3, 4, 5], [7, 9], [3, 4, 5], [7, 9]]


@pytest.mark.parametrize("count", [1, 123])
def test_learning_curves_of_one_stage(count: int) -> None:
    table = _epochs(count).drop(columns=["val_recall_CRS"])
    figure = draw_learning_curves({"stage1": table}, {"stage1": [count]})
    assert _marks(figure) == [[count], [count]]
    words = _words(figure_files(figure, "shown"))
    assert "recall IBS" in words
    assert "recall CRS" not in words
    # Its title would say nothing.
    assert "Stage 1" not in words
    for label in figure.axes[1].get_xticks():
        assert label == round(label)


def test_learning_curves_without_kept_epochs_and_recalls() -> None:
    table = _epochs(4, classes=())
    words = _words(figure_files(draw_learning_curves({"stage1": table}, {}), "shown"))
    assert "accuracy" in words
    assert "kept" not in words
    assert "recall" not in words


def test_what_learning_curves_refuse() -> None:
    table = _epochs(3)
    with pytest.raises(UserError, match="there are none"):
        draw_learning_curves({}, {})
    with pytest.raises(UserError, match="stage2: no column 'val_loss'; there are epoch, train_loss, "):
        draw_learning_curves({"stage2": table.drop(columns="val_loss")}, {})
    with pytest.raises(UserError, match="stage1: the table is empty"):
        draw_learning_curves({"stage1": table[:0]}, {})
    with pytest.raises(UserError, match="stage1: kept epoch 4 is not in the table"):
        draw_learning_curves({"stage1": table}, {"stage1": [2, 4]})


def test_a_map_of_few_galaxies_of_few_classes() -> None:
    panel = EmbeddingPanel(np.eye(2), np.array([1, 1]), Separation(1.0, np.nan))
    figure = draw_embedding_map([[panel]], ["plain"], ["test"], CLASSES)
    words = _words(figure_files(figure, "shown"))
    assert "2 galaxies · purity 1.000" in words
    assert "silhouette" not in words
    assert "SPI" in words


def test_points_have_the_color_of_their_class() -> None:
    (axes,) = draw_embedding_map([[_panel(50)]], ["plain"], ["test"], CLASSES).axes
    (dots,) = axes.collections
    colors = class_colors(CLASSES)
    points = _panel(50)
    for place, color in zip(np.asarray(dots.get_offsets()), dots.get_facecolors(), strict=True):
        row = int(np.abs(points.points - place).sum(axis=1).argmin())
        assert matplotlib.colors.to_hex(color) == colors[CLASSES[points.class_indices[row]]].lower()


def test_a_grid_of_maps_must_be_whole() -> None:
    with pytest.raises(UserError, match=r"each of 2 models and 2 samples, not rows of \[2, 1\]"):
        draw_embedding_map([[_panel(), _panel()], [_panel()]], ["a", "b"], ["c", "d"], CLASSES)


def test_the_galaxy_remains_visible_under_the_heat() -> None:
    cutout = np.zeros((40, 40, 3), np.uint8)
    cutout[:, 20:] = 200
    heat = np.zeros((16, 16), np.float32)
    heat[8:] = 1
    example = AttentionExample("EO", cutout, {"plain": HeatMap("stage1", "layer", cutout, cutout, heat)})
    figure = draw_attention_grid([example], ["plain"], CLASSES)
    shown, heated = (np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes[:2])
    np.testing.assert_array_equal(shown, cutout)
    brightness = heated.mean(axis=2)
    # Light and dark, cold (above) and hot.
    assert (brightness[:, 20:] - brightness[:, :20]).min() > 0.25
    assert (brightness[-10:] - brightness[:10]).min() > 0.25


def test_a_class_without_galaxies_has_no_row() -> None:
    examples = [_example("SPI", 0), _example("CRS", 0), _example("SPI", 1)]
    figure = draw_attention_grid(examples, ["plain", "HIWL"], CLASSES)
    words = _words(figure_files(figure, "shown"))
    assert "CSS" not in words
    # Three galaxies of three images each, and the colorbar.
    assert len(figure.axes) == 10
    # Headings stand above each column, also where the first class has no galaxy.
    assert words.count("HIWL") == 2


def test_what_an_attention_grid_refuses() -> None:
    with pytest.raises(UserError, match="there is none"):
        draw_attention_grid([], ["plain"], CLASSES)
    with pytest.raises(UserError, match="class 'EO': the classes are CRS, SPI"):
        draw_attention_grid([_example("EO")], ["plain"], ["CRS", "SPI"])
    with pytest.raises(UserError, match="class 'EO' has no heat map of 'other'"):
        draw_attention_grid([_example("EO")], ["plain", "other"], CLASSES)


def test_the_steps_end_in_what_is_trained_on() -> None:
    encoded = draw_galaxy("EO", 3)
    figure = draw_augmentation_steps(encoded, AUGMENTATION, PREPROCESSING, seed=11)
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    titles = [axes.get_title() for axes in figure.axes]
    pixels, transform = decode_pixels(encoded).pixels, TrainTransform(AUGMENTATION, 32)
    trained_on = [transform(pixels, seed) for seed in range(11, 11 + 64)]
    last = shown[titles.index("vertical flip")]
    assert any(np.array_equal(last, image) for image in trained_on)
    np.testing.assert_array_equal(shown[0], pixels)
    np.testing.assert_array_equal(shown[1], pixels[4:76, 4:76])
    np.testing.assert_array_equal(shown[4][:, ::-1], shown[3])
    np.testing.assert_array_equal(last[::-1], shown[4])
    # The others differ from it and from each other.
    others = [image.tobytes() for image in shown[7:]]
    assert len({*others, last.tobytes()}) == 8


def test_the_steps_of_a_fits_cutout_have_the_colors_of_the_recipe() -> None:
    image = fits_file(np.random.default_rng(2).gamma(1, 2, (3, 80, 80)).astype(np.float32), BANDS="grz")
    rgb = RgbSettings(bands=("z", "r", "g"))
    figure = draw_augmentation_steps(image, AUGMENTATION, PREPROCESSING, rgb=rgb)
    first = np.asarray(figure.axes[0].get_images()[0].get_array())
    np.testing.assert_array_equal(first, decode_pixels(image, rgb).pixels)


def test_an_augmentation_that_does_little() -> None:
    still = AUGMENTATION.model_copy(
        update={
            "rotation": 0.0,
            "scale": (1.0, 1.0),
            "aspect_ratio": (1.0, 1.0),
            "horizontal_flip": 0.0,
            "vertical_flip": 0.0,
        }
    )
    words = _words(figure_files(draw_augmentation_steps(draw_galaxy("EO", 0), still, PREPROCESSING), "shown"))
    assert "+0°" in words
    assert words.count("not drawn") == 2
    with pytest.raises(UserError, match="the galaxy to augment cannot be read"):
        draw_augmentation_steps(b"no image", still, PREPROCESSING)


def test_a_confusion_matrix_with_an_absent_class() -> None:
    matrix = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 1200]])
    figure = draw_confusion_heat_map(matrix, ["a", "b", "c"])
    words = _words(figure_files(figure, "shown"))
    assert all(word in words for word in ("75.0%", "25.0%", "99.8%", "1,200"))
    # Two rows of three shares, and the colorbar's percents.
    assert len(re.findall(r"\d\.\d%", words)) == 6
    with pytest.raises(UserError, match=r"of 2 classes is not of shape \(3, 3\)"):
        draw_confusion_heat_map(matrix, ["a", "b"])


def test_colors_of_classes() -> None:
    colors = class_colors(CLASSES)
    assert len(set(colors.values())) == 5
    # The same in each figure, whatever the others are.
    assert class_colors(["EO", "CSS"]) == {name: colors[name] for name in ("EO", "CSS")}
    others = class_colors(["ring", "EO", "CSS+EO", "merger"])
    assert len(set(others.values())) == 4
    assert others["EO"] == colors["EO"]
    assert len(class_colors([str(number) for number in range(30)])) == 30


def test_the_dots_of_a_reliability_diagram_are_the_bins_with_galaxies() -> None:
    curves = _curves_of_probabilities()
    figure = draw_reliability_diagram(curves)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    assert list(panels) == ["most probable class", *CLASSES]
    for title, axes in panels.items():
        name = "all" if title == "most probable class" else title
        for container in axes.containers:
            side = container.get_label().removesuffix(" calibration")
            bins = curves[(curves["side"] == side) & (curves["class"] == name) & (curves["count"] > 0)]
            dots = container.lines[0]
            assert list(dots.get_xdata()) == bins["mean_confidence"].tolist()
            assert list(dots.get_ydata()) == bins["accuracy"].tolist()
        assert len(axes.containers) == 2


def test_a_reliability_diagram_of_a_model_that_is_not_calibrated() -> None:
    words = _words(figure_files(draw_reliability_diagram(_curves_of_probabilities(("before",))), "shown"))
    assert "before calibration" in words
    assert "after calibration" not in words


def test_what_a_reliability_diagram_refuses() -> None:
    curves = _curves_of_probabilities(("after",))
    with pytest.raises(UserError, match="no column 'accuracy'"):
        draw_reliability_diagram(curves.drop(columns="accuracy"))
    with pytest.raises(UserError, match="no curve"):
        draw_reliability_diagram(curves[:0])
