"""What a command line's arguments name, and what their outputs are called."""

from pathlib import Path

import pytest

from seg_pipeline.cli.pictures import NoPicture, Picture, pictures_of, watched_pictures


def touch(folder: Path, *names: str) -> None:
    """Makes empty files, and their folders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_of(*arguments: str | Path, out: Path = Path("segments")) -> list[str]:
    """The names of the pictures that these arguments name."""
    return [picture.name for picture in pictures_of(map(str, arguments), out)]


def test_a_folder_gives_its_pictures_with_their_folders_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a/c.jpg", "notes.txt", ".hidden.png", ".cache/d.png")
    assert names_of(tmp_path) == ["a/c.jpg", "b.PNG"]


def test_what_was_written_is_not_segmented_the_next_time(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "found/a.jpg.label-map.png", "a.jpg.label-map.png", "found/x.png")
    assert names_of(tmp_path, out=tmp_path / "found") == ["a.jpg"]


def test_a_picture_named_twice_is_segmented_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    assert names_of(tmp_path / "a.jpg", tmp_path / "a.jpg") == ["a.jpg"]


def test_two_pictures_with_one_name_would_overwrite_each_other(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.jpg", "y/a.jpg")
    with pytest.raises(NoPicture, match=r"would both be written as a\.jpg"):
        names_of(tmp_path / "x/a.jpg", tmp_path / "y/a.jpg")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.com/a%20b.jpg?signature=x", "a_b.jpg"),
        ("https://example.com/%2e%2e/..", "picture"),
        ("https://example.com", "picture"),
        ("s3://bucket/folder/c.png", "c.png"),
    ],
)
def test_an_address_gives_a_harmless_name(url: str, name: str) -> None:
    assert names_of(url) == [name]


def test_what_is_no_picture_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoPicture, match="is no file, no folder and no address"):
        names_of(tmp_path / "missing.jpg")
    with pytest.raises(NoPicture, match="has no picture"):
        names_of(tmp_path)


def test_a_folder_that_is_watched_may_be_empty_and_its_pictures_come_later(
    tmp_path: Path,
) -> None:
    look = watched_pictures([str(tmp_path)], tmp_path / "segments")
    assert look() == []
    (tmp_path / "a.jpg").touch()
    assert [picture.name for picture in look()] == ["a.jpg"]


def test_what_is_no_folder_is_not_watched(tmp_path: Path) -> None:
    with pytest.raises(NoPicture, match="--watch needs a folder"):
        watched_pictures([str(tmp_path / "nowhere")], tmp_path)


def test_a_name_that_is_no_text_is_told_as_one(tmp_path: Path) -> None:
    picture = Picture("x", "caf\udce9.jpg", tmp_path)
    assert picture.told_name == "caf?.jpg"
    assert len(Picture("x", "a" * 300, tmp_path).told_name) == 255


def test_standard_input_is_a_picture() -> None:
    assert names_of("-") == ["stdin"]
