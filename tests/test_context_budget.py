"""The budget of contexts: which window how many sessions get, and that it is never overdrawn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logbale.config import Settings
from logbale.context_budget import GROW_INTERVAL, OBEY_SECONDS, WINDOW_LOGS, ContextBudget, charge
from logbale.messages import NO_CONTEXT

MANY = 1_000_000


def settle(budget, now):
    """Every session that is asked for another window obeys, until none is asked; how many there were."""
    asked = 0
    while moves := budget.moves(now, MANY):
        asked += len(moves)
        for session, window_log in moves:
            assert budget.obeyed(session) == window_log
    return asked


def budget_of(sessions, memory, now=0.0):
    budget = ContextBudget(memory)
    for n in range(sessions):
        budget.came(n, now)
        settle(budget, now)
    return budget


@pytest.mark.parametrize(
    ("sessions", "window_log"),
    [(1, 17), (3364, 17), (3365, 16), (5057, 15), (7414, 14), (10_000, 14), (10_305, 13), (13_108, 12), (15_031, 12)],
)
def test_the_default_budget_gives_so_many_sessions_such_a_window(sessions, window_log):
    """docs/operating.md has this table; 10,000 sessions get 2**14."""
    budget = ContextBudget(Settings().context_memory)
    for n in range(sessions):
        budget.came(n, 0.0)
    settle(budget, 0.0)
    assert budget.window_log == window_log
    assert budget.reserved_bytes == sessions * charge(window_log) <= Settings().context_memory


def test_what_no_window_fits_goes_without_a_context():
    """At the lowest window a further session gets none, and one as soon as another session is over."""
    budget = budget_of(10, memory=10 * charge(WINDOW_LOGS[-1]))
    assert budget.came("late", 0.0) == NO_CONTEXT
    assert budget.moves(1.0, MANY) == []
    budget.left(3)
    assert budget.moves(2.0, MANY) == [("late", WINDOW_LOGS[-1])]


@pytest.mark.parametrize("memory", [0, charge(WINDOW_LOGS[-1]) - 1])
def test_a_budget_for_no_context_at_all(memory):
    """CONTEXT_MEMORY=0 is one."""
    budget = budget_of(3, memory)
    assert (budget.window_log, budget.reserved_bytes, budget.moves(1.0, MANY)) == (NO_CONTEXT, 0, [])


def test_memory_that_is_not_given_back_yet_is_not_given_away():
    """Between a message and the answer to it the session is charged for the larger window."""
    budget = ContextBudget(2 * charge(17))
    assert [budget.came(n, 0.0) for n in (1, 2)] == [17, 17]
    assert budget.came(3, 0.0) == NO_CONTEXT
    assert budget.moves(0.0, MANY) == [(1, 16), (2, 16)]
    assert budget.came(4, 0.0) == NO_CONTEXT
    budget.obeyed(1)
    budget.obeyed(2)
    assert budget.moves(0.0, MANY) == [(1, 15), (2, 15), (3, 15)]  # and not 4, for which two must obey first
    assert budget.reserved_bytes <= budget.memory


def test_windows_grow_late_and_step_by_step():
    """Sessions that come and go around a limit make nobody begin anew."""
    memory = 8 * charge(17)
    budget = budget_of(9, memory)
    assert budget.window_log == 16
    budget.left(0)
    assert (settle(budget, 1e6), budget.window_log) == (0, 16)  # eight would fit, and the next one would not
    budget.left(1)
    budget.left(2)
    assert (settle(budget, 1e6), budget.window_log) == (6, 17)
    busy = budget_of(40, memory)
    lowest = busy.window_log
    for n in range(39):
        busy.left(n)
    seen = []
    for minute in range(1, 10):
        settle(busy, minute * GROW_INTERVAL)
        seen.append(busy.window_log)
    assert seen == [*range(lowest + 1, 18), *[17] * (9 - 17 + lowest)]


def test_the_work_of_a_turn_is_bounded():
    """Those with the largest windows come first, so many at a time and nobody twice."""
    budget = ContextBudget(100 * charge(17))
    for n in range(101):
        budget.came(n, 0.0)
    asked = [budget.moves(0.0, 40) for _ in range(4)]
    assert [len(moves) for moves in asked] == [40, 40, 20, 0]
    assert len({session for moves in asked for session, _ in moves}) == 100


def test_who_does_not_obey_is_named_after_a_while():
    """Not before its answer can have crossed a slow link, and not while we do not listen."""
    budget = ContextBudget(charge(17))
    budget.came("deaf", 0.0)
    budget.came("late", 0.0)
    assert budget.moves(0.0, MANY) == [("deaf", 15)]
    assert budget.disobedient(OBEY_SECONDS - 1) == []
    budget.forgive(OBEY_SECONDS - 1)
    assert budget.disobedient(OBEY_SECONDS) == []
    assert budget.disobedient(2 * OBEY_SECONDS - 1) == ["deaf"]
    budget.left("deaf")
    assert budget.disobedient(1e9) == []
    assert budget.reserved_bytes == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["came", "came", "left", "moves", "obeyed", "wait"]), st.integers(0, 30)), max_size=150
)


@given(STEPS, st.integers(0, 12 * charge(17)))
def test_the_budget_is_never_overdrawn_and_settles(steps, memory):
    """Whatever comes, goes, obeys or does not; at rest all have the window on offer where they fit."""
    budget = ContextBudget(memory)
    now, number = 0.0, 0
    held, asked = {}, {}
    for what, which in steps:
        session = list(held)[which % len(held)] if held else None
        if what == "came":
            held[number] = budget.came(number, now)
            number += 1
        elif what == "left" and held:
            budget.left(session)
            held.pop(session)
            asked.pop(session, None)
        elif what == "moves":
            moves = dict(budget.moves(now, which))
            assert len(moves) <= which
            assert not moves.keys() & asked.keys()
            asked |= moves
        elif what == "obeyed" and asked:
            session = list(asked)[which % len(asked)]
            held[session] = asked.pop(session)
            assert budget.obeyed(session) == held[session]
        now += which * 3 if what == "wait" else 0.0
        charged = sum(charge(max(window_log, asked.get(one, 0))) for one, window_log in held.items())
        assert budget.reserved_bytes == charged <= memory
        assert budget.sessions == len(held)
    for session, window_log in list(asked.items()):
        held[session] = window_log
        budget.obeyed(session)
    settle(budget, now)
    windows = set(budget._has.values()) - {budget.window_log}
    assert windows <= {NO_CONTEXT}, "all that have a context have the window on offer"
    if windows:
        assert budget.reserved_bytes + charge(budget.window_log) > memory
