"""The rule of what may go: what is needed stays, whatever lies beside it."""

from hypothesis import given
from hypothesis import strategies as st

from phasegpt.checkpoint_files import ADAPTER
from tune.keep import Standing, may_go

NAMES = ["checkpoint-3", "checkpoint-12", ADAPTER, "evaluations", ".checkpoint-3.gone", ".adapter_model.x1.old", "mine"]
standings = st.builds(Standing, *[st.booleans()] * 5)
folders = st.lists(st.sampled_from(NAMES), unique=True)
LOSER = Standing(ended=True, named=False, wanted=False, finalist=False, delivered=True)


@given(folders, standings, st.booleans())
def test_nothing_goes_where_all_is_kept_nor_of_a_job_that_may_go_on_or_that_others_name(
    names: list[str], job: Standing, concluded: bool
) -> None:
    assert may_go(names, job, "all", concluded=concluded) == []
    if job.named or not job.ended:
        assert may_go(names, job, "finalists", concluded=concluded) == []


@given(folders, standings, st.booleans())
def test_only_checkpoints_adapters_and_what_crashes_leave_of_them_go(
    names: list[str], job: Standing, concluded: bool
) -> None:
    gone = may_go(names, job, "finalists", concluded=concluded)
    assert set(gone) <= set(names) - {"evaluations", "mine"}
    assert len(gone) == len(set(gone))


@given(folders, standings, st.booleans())
def test_an_adapter_goes_with_the_search_alone_and_only_a_losers_that_is_elsewhere(
    names: list[str], job: Standing, concluded: bool
) -> None:
    gone = ADAPTER in may_go(names, job, "finalists", concluded=concluded)
    assert gone == (ADAPTER in names and concluded and job == LOSER)


@given(folders, standings, st.booleans())
def test_where_a_clone_begins_with_a_job_some_adapter_stays(names: list[str], job: Standing, concluded: bool) -> None:
    if job.wanted:
        gone = may_go(names, job, "finalists", concluded=concluded)
        assert ADAPTER in set(names) - set(gone) or gone == []


def test_of_a_job_of_which_nothing_is_known_nothing_goes() -> None:
    assert may_go(NAMES, Standing(), "finalists", concluded=True) == []
