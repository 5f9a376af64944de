"""Settings of an evaluation: what cannot be right is named before anything is loaded."""

import pytest

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.evaluation.settings import EvalSettings

TUNED = {"base": "llama", "adapter": "run", "steps": [0, 5]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": ""}, "steps is [0, 5] without an adapter; a base alone has step 0 only"),
        ({"adapter_mode": "merged", "steps": [0]}, "steps names only 0, the base"),
        ({"backend": "vllm", "likelihood": True}, "backend 'vllm' only writes answers"),
        ({"backend": "vllm", "adapter_mode": "merged"}, "backend 'vllm' only writes answers"),
        ({"compare": ["merged-none"], "steps": [0]}, "compare names 'merged-none', but steps names only 0"),
        ({"compare": ["fused"]}, "'compare.0': Input should be 'unmerged-none'"),
        ({"run_name": "../x"}, "a name has letters, digits"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(change: dict, message: str) -> None:
    with pytest.raises(JmedloraError) as refused:
        EvalSettings.of_parameters(TUNED | change, "preset 'p', run 'a'")
    assert str(refused.value).startswith("preset 'p', run 'a': ") and message in str(refused.value)


def test_steps_are_asked_in_rising_order_and_changes_are_checked() -> None:
    settings = EvalSettings.of_parameters(TUNED | {"steps": [5, 0], "preset": "mini", "seed": 1, "run_name": "a"}, "here")
    assert settings.steps == [0, 5]
    with pytest.raises(JmedloraError, match="a base alone has step 0 only"):
        settings.changed(adapter="")


def test_a_record_holds_later_settings_only_where_they_were_set() -> None:
    """So that the committed records of the first study read as records of today."""
    plain, other = EvalSettings(**TUNED), EvalSettings(**TUNED, likelihood=True, shuffle_choices=3)
    assert set(other.recorded()) - set(plain.recorded()) == {"likelihood", "shuffle_choices"}
