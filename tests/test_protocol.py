import hashlib
import json

from diffusion_lab.protocol import canonical, differences, digest

FACTS = {"n": 8, "crop": "center148", "samplers": {"b": 1, "a": "é"}, "device": "cpu", "threads": 2}


def test_the_order_of_facts_and_the_machine_do_not_matter() -> None:
    shuffled = {"samplers": {"a": "é", "b": 1}, "threads": 9, "crop": "center148", "device": "a GPU", "n": 8}
    assert canonical(FACTS) == canonical(shuffled)
    assert digest(FACTS) == digest(shuffled)
    assert differences(FACTS, shuffled) == []


def test_anything_else_does() -> None:
    for key, value in (("n", 9), ("crop", "full"), ("samplers", {"b": 2, "a": "é"})):
        other = {**FACTS, key: value}
        assert digest(other) != digest(FACTS)
        assert differences(FACTS, other) == [f"{key} {FACTS[key]} against {value}"]
    assert differences(FACTS, {key: value for key, value in FACTS.items() if key != "crop"}) == [
        "crop center148 against None"
    ]


def test_the_name_is_the_sha256_of_the_form() -> None:
    form = canonical(FACTS)
    assert form == r'{"crop":"center148","n":8,"samplers":{"a":"\u00e9","b":1}}'
    assert hashlib.sha256(form.encode()).hexdigest() == digest(FACTS)
    assert digest(json.loads(form)) == digest(FACTS)
