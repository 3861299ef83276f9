import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import SampleError
from pipeline.samples import open_samples
from pipeline.samples.images import encode_png


def paint(path: Path, height: int = 4, width: int = 6, value: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = (np.arange(height * width * 3, dtype=np.uint32) * 7 + value) % 256
    image = Image.fromarray(ramp.astype(np.uint8).reshape(height, width, 3))
    image.convert(mode).save(path)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for place, value in {
        "dog/2.png": 1,
        "cat/b.JPG": 2,
        "cat/deep/a.jpeg": 3,
        "ant/z.png": 4,
    }.items():
        paint(tmp_path / "animals" / place, value=value)
    (tmp_path / "animals/cat/notes.txt").write_text("no image")
    (tmp_path / "animals/.hidden").mkdir()
    paint(tmp_path / "animals/cat/._b.png")
    return tmp_path


def test_class_folders_give_labels_and_ids(base: Path) -> None:
    samples = open_samples("images", base=base, name="data.train", path="animals")
    batch = samples.read([3, 0])
    assert samples.class_names == ("ant", "cat", "dog")
    assert samples.ids(0, 4) == ["ant/z.png", "cat/b.JPG", "cat/deep/a.jpeg", "dog/2.png"]
    assert samples.read(range(4)).labels.tolist() == [0, 1, 1, 2]
    assert batch.inputs.shape == (2, 3, 4, 6)
    with Image.open(base / "animals/dog/2.png") as image:
        assert np.array_equal(batch.inputs[0], np.asarray(image).transpose(2, 0, 1))


def test_flat_folder_is_unlabelled(base: Path) -> None:
    samples = open_samples("images", base=base / "animals", name="x", path="dog", mode="L")
    assert samples.class_names is None
    assert samples.ids(0, 5) == ["2.png"]
    assert samples.read([0]).labels.tolist() == [-1]
    assert samples.read([0]).inputs.shape == (1, 1, 4, 6)
    assert samples.read([0]).inputs.flags.writeable


def test_class_names_fix_the_numbers_of_the_classes(base: Path) -> None:
    names = ["dog", "cow", "cat", "ant"]
    samples = open_samples("images", base=base, name="x", path="animals", class_names=names)
    assert samples.class_names == tuple(names)
    assert samples.read(range(4)).labels.tolist() == [3, 2, 2, 0]


@pytest.mark.parametrize(("height", "width"), [(8, 4), (3, 9), (5, 5), (1, 50)])
def test_crop_keeps_the_middle_and_stretch_keeps_all(
    tmp_path: Path, height: int, width: int
) -> None:
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[:, width // 2 :] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    for fit in ("crop", "stretch"):
        samples = open_samples(
            "images", base=tmp_path, name="x", path=".", size=[6, 4], mode="L", fit=fit
        )
        got = samples.read([0]).inputs[0, 0]
        assert got.shape == (6, 4)
        assert got[:, 0].max() < 128 < got[:, -1].min()


def test_crop_resizes_the_shorter_side_then_cuts_the_centre(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", height=8, width=20)
    got = open_samples("images", base=tmp_path, name="x", path=".", size=[4, 4]).read([0]).inputs[0]
    with Image.open(tmp_path / "a.png") as image:
        whole = np.asarray(image.resize((10, 4), Image.Resampling.BILINEAR))
    assert np.array_equal(got, whole[:, 3:7].transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_any_8_bit_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (3, 2), (250, 10, 10)).convert(mode).save(
        tmp_path / "a.png" if mode != "CMYK" else tmp_path / "a.jpg"
    )
    assert open_samples("images", base=tmp_path, name="x", path=".").read([0]).inputs.shape == (
        1,
        3,
        2,
        3,
    )


def test_16_bit_images_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    samples = open_samples("images", base=tmp_path, name="x", path=".")
    with pytest.raises(
        SampleError, match=r"^x: deep.png is not a readable image: pixels of mode I"
    ):
        samples.read([0])


def test_truncated_image_is_named(base: Path) -> None:
    path = base / "animals/dog/2.png"
    path.write_bytes(path.read_bytes()[:60])
    samples = open_samples("images", base=base, name="x", path="animals")
    with pytest.raises(SampleError, match=r"^x: dog/2.png is not a readable image: "):
        samples.read([0, 3])


def test_images_of_unequal_size_are_named(base: Path) -> None:
    paint(base / "animals/dog/3.png", height=5)
    samples = open_samples("images", base=base, name="x", path="animals")
    with pytest.raises(
        SampleError, match=r"^x: dog/3.png has shape \(3, 5, 6\) uint8, but ant/z.png"
    ):
        samples.read([0, 4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "nowhere"}, "x.path: there is no folder"),
        ({"path": "empty"}, "holds no image; files must end in .png, .jpg, .jpeg"),
        ({"path": "mixed"}, "holds both images (stray.png) and folders (ant, ...)"),
        ({"path": "animals", "mode": "HSV"}, 'x.mode: must be "RGB" or "L"; got \'HSV\''),
        ({"path": "animals", "fit": "pad"}, 'x.fit: must be "crop" or "stretch"; got \'pad\''),
        ({"path": "animals", "size": [0, 4]}, "x.size: must be [height, width] in pixels"),
        (
            {"path": "animals", "class_names": ["ant", "dog"]},
            "x.class_names: the folder 'cat' is none of them; allowed are ant, dog",
        ),
    ],
    ids=["no folder", "empty", "mixed", "mode", "fit", "size", "class names"],
)
def test_unusable_folders_are_refused(
    base: Path, arguments: dict[str, object], message: str
) -> None:
    (base / "empty").mkdir()
    for place in ("stray.png", "ant/a.png", "bee/b.png"):
        paint(base / "mixed" / place)
    with pytest.raises(SampleError) as caught:
        open_samples("images", base=base, name="x", **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 8, 8), (56, 56)), ((3, 28, 14), (28, 56)), ((3, 300, 200), (85, 128))],
    ids=["digit", "narrow", "photograph"],
)
def test_a_picture_of_an_image_can_be_looked_at(
    shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    content = encode_png(image)
    assert content is not None
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == size
        if shape[0] == 1:  # enlarged by whole factors, each pixel as it is
            assert np.array_equal(np.asarray(picture)[::7, ::7], image[0])


@pytest.mark.parametrize("image", [np.zeros((1, 8, 8), np.float32), np.zeros((5, 8, 8), np.uint8)])
def test_what_is_no_image_has_no_picture(image: np.ndarray) -> None:
    assert encode_png(image) is None
