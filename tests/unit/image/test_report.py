"""The report of a rechunked image, as people read it."""

from bootcd.image.report import Transfer


def test_one_layer_is_no_layers_and_columns_stay_aligned() -> None:
    one, two = str(Transfer(layers=1, bytes=1_500_000)), str(Transfer(layers=12, bytes=500))
    assert one.split() == ["1", "layer", "1.5", "MB"]
    assert two.split() == ["12", "layers", "500", "B"]
    assert len(one) == len(two)
