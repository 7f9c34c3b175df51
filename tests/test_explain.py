"""bncheck explain: a page per rule, a table of all, the nearest spelling."""

import json

import pytest
from at_the_prompt import here

from bncheck.diagnosis.rules import load_rules
from bncheck.finding import OF_NAN


def test_page_of_a_rule():
    done = here("explain", "bn103")
    assert done.returncode == 0
    assert done.stdout.startswith("BN103 update-phase (convention)\nTwo targets move their running statistics")
    assert "What to do: run a backward" in done.stdout


def test_table_and_json_list_every_rule():
    lines = here("explain").stdout.splitlines()
    records = json.loads(here("explain", "--json").stdout)
    assert len(lines) == len(records) == len(load_rules())
    assert records[0].keys() == {"code", "cause", "family", "title", "explanation"}


def test_the_family_about_nan_has_the_causes_that_reports_know_it_by():
    assert {rule.cause for rule in load_rules() if rule.code.startswith("BN3")} == set(OF_NAN)


NEAR = "Did you mean BN104 update-count?"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("updte-count", NEAR),
        (" ", "explain needs the code or the cause of a rule."),  # every rule was said to speak of it
        ("zzz", "there is no rule 'zzz'.\n"),
        ("BN999", "there is no rule 'BN999'.\n"),  # no other number is near
        ("momentum", "Rules that speak of it: BN114 hyperparameter-lost, BN106 batch-weight, "),
    ],
)
def test_unknown_rule_is_a_usage_error(word, says):
    done = here("explain", word)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr and "Traceback" not in done.stderr
