"""Names and seeds are those of earlier versions: stored results are found by the ones, and repeated by the others."""

from pai_bench.support.identity import digest, identify, stream


def test_a_name_is_of_its_content_whatever_the_order_of_its_keys() -> None:
    # sha256 of {"a":"\u00e4","b":[1,2.5]}
    assert digest({"b": [1, 2.5], "a": "ä"}, 64) == "5365cd93aa9a9f3e8a4c51dae9ceef2fe2b7508848e669368aad315562103680"
    assert identify("net/one of mine:x=0.5", {"b": [1, 2.5], "a": "ä"}) == "net_one_of_mine_x=0.5-5365cd93aa9a"
    assert identify("a" * 90, {})[:-13] == "a" * 80


def test_a_stream_is_of_its_seed_and_purpose() -> None:
    assert stream(3, "weights") == 0x604182E17D90  # sha256 of 3/weights
