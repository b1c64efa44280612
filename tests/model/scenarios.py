"""The small cases that are tried out."""

from __future__ import annotations

from tests.model.explore import Limits
from tests.model.lives import Scenario
from tests.model.scenario import delete, store

OLD = store("old", b"o")
ROTATING_BYTES = 1200
"""So small that no commit fits beside another."""
LARGE = b"larger than what goes into the log"

ALL = {
    scenario.name: scenario
    for scenario in (
        Scenario("commit", ((store("a", b"1", b"2"),),), before=(OLD,)),
        Scenario("first-start", ((store("a", b"1"),),), starts=frozenset({0}), is_new=True),
        Scenario("delete", ((delete("d", "old-0"), store("a", b"1")),), before=(OLD,)),
        Scenario("blob-file", ((store("a", LARGE),),)),
        Scenario("rotation", ((store("a", b"1"), store("b", b"2")),), segment_bytes=ROTATING_BYTES),
        Scenario("fault", ((store("a", b"1"), store("b", b"2")),), limits=Limits(faults=1)),
        Scenario("lone-commit", ((store("a", b"1"),),)),
        Scenario("lone-fault", ((store("a", b"1"),),), limits=Limits(faults=1)),
        Scenario("two-commits", ((store("a", b"1"),), (store("b", b"2"),))),
        Scenario(
            "one-dies",
            ((store("a", b"1", b"2"),), (store("b", b"3"),)),
            limits=Limits(kills=1, mortals=frozenset({0}), power_cuts=False),
        ),
        Scenario(
            "death-then-fault",
            ((store("a", b"1"),), (store("b", b"2"),)),
            limits=Limits(kills=1, faults=1, mortals=frozenset({0}), power_cuts=False),
        ),
        Scenario(
            "two-processes",
            ((store("a", b"1", b"2"),), (store("b", b"3"),)),
            limits=Limits(kills=1),
        ),
        Scenario("start-beside", ((store("a", b"1"),), ()), starts=frozenset({1})),
        Scenario(
            "start-beside-a-death",
            ((store("a", b"1"),), (store("b", b"2"),)),
            starts=frozenset({1}),
            limits=Limits(kills=1),
        ),
        Scenario(
            "two-rotations",
            ((store("a", b"1"),), (store("b", b"2"),)),
            before=(OLD,),
            segment_bytes=ROTATING_BYTES,
            limits=Limits(kills=1),
        ),
        Scenario(
            "two-with-fault",
            ((store("a", b"1"),), (delete("d", "old-0"),)),
            before=(OLD,),
            limits=Limits(kills=1, faults=1),
        ),
        Scenario(
            "rotation-with-fault",
            ((store("a", b"1"), store("b", b"2")),),
            before=(OLD,),
            segment_bytes=ROTATING_BYTES,
            limits=Limits(faults=1),
        ),
        Scenario("finely-torn", ((store("a", b"1", b"2"),),), before=(OLD,), pieces=5),
    )
}
