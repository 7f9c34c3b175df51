"""Who holds which statistics, BN402, BN407, BN408: replicas, copies, one layer at two places. Weight 1/2 throughout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from rule_views import make_case, make_cell, make_trace, with_layer

from bncheck.diagnosis.rules.mode_and_state import bn402_stale_state, bn407_synchronisation, bn408_shared_state
from bncheck.evidence import CellView
from bncheck.finding import Finding
from bncheck.scenario import Case

F = "train_forward"
U = "update_copy"
C = "train_copy"


# ----------------------------------------------------------------------------------------------------- synchronisation


def network(case: Case, **more: object) -> Case:
    return replace(case, network=replace(case.network, **more))


def divided(first: list[float], second: list[float], counts: tuple[int, int] = (4, 4)) -> list[Finding]:
    """Replica 0 is given batches of mean 0 and 0, replica 1 of mean 8 and 8; all start from 0."""
    case = network(make_case((F, F)), replicas=counts)
    trace = make_trace((F, F), running_mean=first, running_var=[1, 1, 1], input_mean=[0, 0], n=[counts[0]] * 2)
    cell = make_cell(case, "torch[ddp]", trace)
    other = {"running_mean": second, "running_var": [1, 1, 1], "input_mean": [8, 8], "n": [counts[1]] * 2}
    return list(bn407_synchronisation.check_cell(with_layer(cell, "bn@1", **other)))


def test_every_replica_averages_its_own_part() -> None:
    (found,) = divided([0, 0, 0], [0, 4, 6])
    assert (found.kind, found.explained, found.layer) == ("hazard", 1.0, "bn")
    assert "averages its own part of the batch alone. running_mean of bn ends at 0 in replica 0 and 6 in" in found.title
    # Whole batches have mean 4: 0, 2, 3. Replica 0 is off by 0, 2, 3.
    assert found.evidence["running_mean of whole batches"] == 3.0
    assert found.evidence["mean_abs"] == 5 / 3


def test_replicas_that_start_from_replica_0_each_time() -> None:
    """Its buffers are 0 before both steps, so replica 1 goes from 0 to 4 twice."""
    (found,) = divided([0, 0, 0], [0, 4, 4])
    assert "alone, from replica 0's statistics on. running_mean of bn ends at 0 in replica 0 and 4 in replica 1" in (
        found.title
    )


def test_synchronised_replicas_are_silent() -> None:
    assert divided([0, 2, 3], [0, 2, 3]) == []


def test_uneven_parts_weigh_by_their_size() -> None:
    """Three of four values per channel have mean 0 and one has mean 8: the whole batch has mean 2."""
    assert divided([0, 1, 1.5], [0, 1, 1.5], counts=(3, 1)) == []
    assert divided([0, 2, 3], [0, 2, 3], counts=(3, 1)) == []  # a mean of means: neither rule, so nothing is said
    (found,) = divided([0, 0, 0], [0, 4, 6], counts=(3, 1))
    assert found.evidence["running_mean of whole batches"] == 1.5


def test_statistics_that_follow_no_such_rule_are_not_named() -> None:
    assert divided([0, 0.5, 0.25], [0, 4, 6]) == []


def test_a_network_without_replicas_is_none_of_its_business() -> None:
    cell = make_cell(make_case((F,)), "torch", make_trace((F,), running_mean=[0, 0], input_mean=[0]))
    assert list(bn407_synchronisation.check_cell(cell)) == []


# -------------------------------------------------------------------------------------------------------- shared-state


def copies(ops: tuple[str, ...], own: list[float], copy: list[float], way: str = "export") -> CellView:
    case = network(make_case(ops), copied=way)
    trace = make_trace(ops, running_mean=own, running_var=[1] * len(own), training=[0] * len(own))
    return with_layer(make_cell(case, "torch", trace), "bn@copy", running_mean=copy, running_var=[1] * len(own))


def test_training_a_copy_moves_the_original() -> None:
    (found,) = bn408_shared_state.check_cell(copies((U, C), [1, 1, 3], [1, 1, 3]))
    assert "running its exported program moves running_mean of bn in the original, which is in eval, by 2: both" in (
        found.title
    )
    assert (found.kind, found.layer, found.event, found.evidence["moved by"]) == ("hazard", "bn", 1, 2.0)


def test_training_the_original_moves_a_copy() -> None:
    (found,) = bn408_shared_state.check_cell(copies((U, F), [1, 1, 3], [1, 1, 3], "assign"))
    assert "training the original moves running_mean of bn in a network that was loaded with assign=True" in found.title


def test_a_copy_that_moves_alone_is_silent() -> None:
    assert list(bn408_shared_state.check_cell(copies((U, C), [1, 1, 1], [1, 1, 3]))) == []


def test_an_update_may_move_the_copy() -> None:
    assert list(bn408_shared_state.check_cell(copies((F, U), [1, 3, 3], [1, 1, 3]))) == []


def places(first: list[float], second: list[float], means: tuple[float, float]) -> list[Finding]:
    """Layers bn and other after two steps; their batches have the means given, every time."""
    common = {"running_var": [1, 1, 1]}
    cell = make_cell(
        make_case((F, F)), "torch", make_trace((F, F), running_mean=first, input_mean=[means[0]] * 2, **common)
    )
    cell = with_layer(cell, "other", running_mean=second, input_mean=[means[1]] * 2, **common)
    return list(bn408_shared_state.check_cell(cell))


def test_one_layer_at_two_places() -> None:
    """From 0 with means 4 and 8 in turn: 2, 5 after the first step; 4.5, 6.25 after the second. Apart: 0, 2, 3."""
    (found,) = places([0, 5, 6.25], [0, 5, 6.25], (4, 8))
    assert "bn and other are one layer" in found.title
    assert (found.explained, found.evidence["mean_abs"]) == (1.0, (0 + 3 + 3.25) / 3)


def test_two_layers_that_see_the_same_are_not_one() -> None:
    assert places([0, 2, 3], [0, 2, 3], (4, 4)) == []


def test_two_layers_with_statistics_of_their_own() -> None:
    assert places([0, 2, 3], [0, 4, 6], (4, 8)) == []


# --------------------------------------------------------------------------------------------------------- stale-state


def test_a_teacher_that_keeps_its_first_statistics() -> None:
    (found,) = bn402_stale_state.check_cell(copies((F, U, F, U), [0, 2, 2, 4, 4], [0, 0, 0, 0, 0], "ema_parameters"))
    assert found.title.startswith(
        "torch: after 2 updates the copy's running_mean of bn is still what it was at first: "
    )
    assert found.title.endswith("0 where the original has 4.")
    assert (found.kind, found.layer, found.explained) == ("hazard", "bn@copy", 1.0)


def test_a_copy_that_averages_the_statistics_themselves() -> None:
    (found,) = bn402_stale_state.check_cell(copies((F, U, F, U), [0, 2, 2, 4, 4], [0, 0, 2, 2, 3], "averaged_buffers"))
    assert "is the average of the original's 2 at each update: 3 where the original has 4" in found.title


def test_a_copy_with_statistics_from_nowhere_is_not_explained() -> None:
    (found,) = bn402_stale_state.check_cell(copies((F, U), [0, 2, 2], [0, 0, 7], "averaged"))
    assert "is another value" in found.title
    assert found.explained is None


def test_a_copy_that_follows_is_silent() -> None:
    assert list(bn402_stale_state.check_cell(copies((F, U), [0, 2, 2], [0, 0, 2], "averaged"))) == []
    cell = copies((F, U), [0, 2, 2], [0, 0, 2 + 1e-7], "averaged")
    assert cell.trace is not None
    assert np.asarray(cell.trace.get("bn@copy", "running_mean")).dtype == np.float32
    assert list(bn402_stale_state.check_cell(cell)) == []


def test_a_copy_that_trains_after_each_update_is_not_stale() -> None:
    """Read right after its update it is one forward behind; it moves with its own, before anybody uses it."""
    ops = (F, U, C, F, U, C)
    cell = copies(ops, [0, 2, 2, 2, 4, 4, 4], [0, 0, 0, 2, 2, 2, 4], "ema_parameters")
    assert list(bn402_stale_state.check_cell(cell)) == []
    used = copies((*ops, "eval_copy"), [0, 2, 2, 2, 4, 4, 4, 4], [0, 0, 0, 2, 2, 2, 4, 4], "ema_parameters")
    assert list(bn402_stale_state.check_cell(used)) == []


def test_a_copy_whose_training_moves_nothing_is_stale() -> None:
    cell = copies((F, U, C), [0, 2, 2, 2], [0, 0, 0, 0], "ema_parameters")
    (found,) = bn402_stale_state.check_cell(cell)
    assert "is still what it was at first: 0 where the original has 2." in found.title


def test_a_copy_that_is_used_before_the_original_goes_on_is_judged_by_what_it_was_given() -> None:
    used = (F, U, "eval_copy", F)
    assert list(bn402_stale_state.check_cell(copies(used, [0, 2, 2, 2, 3], [0, 0, 2, 2, 2], "deepcopy"))) == []
    (found,) = bn402_stale_state.check_cell(copies(used, [0, 2, 2, 2, 3], [0, 0, 0, 0, 0], "ema_parameters"))
    assert found.title.endswith("0 where the original has 2.")


def test_a_copy_that_shares_the_originals_buffers_moves_with_it() -> None:
    assert list(bn402_stale_state.check_cell(copies((F, U, F), [0, 2, 2, 3], [0, 2, 2, 3], "assign"))) == []
