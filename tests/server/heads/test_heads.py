"""A head's life: requests are checked against sets, trainings are held, fail or are cancelled, and what is left of them."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
import toys_trainers
from heads_harness import open_heads, words
from passes import of_encoder, of_head, of_set
from topwork_server import Target, TextItem, blocking_calls
from topwork_server.errors import AlreadyExists, InvalidInput, NotFound, NotReady, Unavailable
from topwork_server.feature_sets.set_types import SetDefinition
from topwork_server.heads.head_manager import PROBE, TRAIN
from topwork_server.heads.head_status import HeadState
from topwork_server.heads.head_types import Pooling, Task, TrainRequest, UnlabeledUse, definition_of
from topwork_server.heads.training.probe_request import ProbeRequest
from topwork_server.inference.engine import EmbedParams
from topwork_server.jobs.job_records import JobState
from topwork_server.types import FingerprintedTap, Modality

BIRDS = TrainRequest("birds", "label")


@dataclass(frozen=True)
class Options:
    shrinkage: float = 0.0
    tuned: str = ""


class Tunable(toys_trainers.NearestMean):
    options = Options


class Anything(toys_trainers.NearestMean):
    targets = frozenset(Target)


async def trained(w, **more):
    made = await w.heads.train(replace(BIRDS, **more))
    return await w.heads.wait_until_trained(of_head(made.name))


async def test_looking_for_labels_ends_when_the_caller_leaves(home, monkeypatch):
    """The check waits until the caller has gone, so that work that never hears of it would begin a training after all."""
    begun, left = threading.Event(), threading.Event()

    class Slow(blocking_calls.BlockingCaller):
        def check(self):
            begun.set()
            left.set() if self._gone.wait(20) else None
            super().check()

    async with open_heads(home) as w:
        await w.fill()
        monkeypatch.setattr(blocking_calls, "BlockingCaller", Slow)
        training = asyncio.create_task(w.heads.train(replace(BIRDS, where="label IS NOT NULL")))
        assert await asyncio.to_thread(begun.wait, 20)
        training.cancel()
        with pytest.raises(asyncio.CancelledError):
            await training
        assert await asyncio.to_thread(left.wait, 20)
        assert w.jobs.started == []


async def test_a_wish_becomes_a_job_then_a_head(home):
    async with open_heads(home) as w:
        feature_set = await w.fill()
        w.jobs.gate.clear()
        begun = await w.heads.train(BIRDS)
        assert (begun.name, begun.state, begun.detail, begun.head) == ("birds-label", HeadState.TRAINING, "", None)
        assert (begun.job.kind, begun.job.subject, begun.job.state) == ("train", "birds-label", JobState.RUNNING)
        assert w.pins() == {"training-birds-label": feature_set.version}
        with pytest.raises(NotReady, match=r"it is in training .wait for its job.$"):
            await w.heads.report(of_head("birds-label"))
        [(call, arguments)] = w.jobs.started
        assert call == TRAIN
        assert (arguments["home"], arguments["threads"]) == (str(home), 1)
        definition = definition_of(json.loads(json.dumps(arguments["definition"])))
        assert definition == begun.definition
        assert (definition.task, definition.kind, definition.modality) == (Task.CLASSIFICATION, "linear", Modality.TEXT)
        assert (definition.views, definition.path) == (((w.taps("mean")[0], Pooling.ROW),), str(feature_set.path))
        assert (definition.encoder, definition.version) == ("letters", feature_set.version)
        w.jobs.gate.set()
        done = await w.heads.wait_until_trained(of_head("birds-label"))
        assert (done.state, done.detail, done.job.state) == (HeadState.READY, "", JobState.DONE)
        assert done.head.names == ("others", "plosives", "vowels")
        assert done.head.labeled == 30
        assert done.bytes > 0
        assert w.pins() == {"head-birds-label": feature_set.version}
        assert (await w.heads.report(of_head("birds-label"))).estimate == "5-fold cross-validation over 30 items"
        assert [one.name for one in await w.heads.list()] == ["birds-label"]
        assert [one.name for one in await w.heads.list("letters")] == ["birds-label"]
        assert await w.heads.list("second") == []
        with pytest.raises(NotFound, match="leters"):
            await w.heads.list("leters")


async def test_what_was_wished_stands_in_the_definition(home):
    async with open_heads(home) as w:
        feature_set = await w.fill(taps=("mean", "letters"))
        await w.write(feature_set, ["nobody"], ("mean", "letters"), label=[None], number=[20], group=["u"])
        first = feature_set.version
        await w.write(feature_set, ["abc"], ("mean", "letters"), label=["vowels"], number=[90], group=["g"])
        made = await w.heads.train(
            TrainRequest(
                "birds",
                "label",
                name="B.2",
                task=Task.CLASSIFICATION,
                taps=("letters", "mean"),
                poolings=("max", "mean+std"),
                options={"shrinkage": 0.5},
                where="number < 25",
                test_where="number < 6",
                group="group",
                folds=3,
                seed=2**63,
                version=first,
                unlabeled=UnlabeledUse.SELF_TRAINING,
            )
        )
        definition = made.definition
        assert [(info.tap.name, pooling) for info, pooling in definition.views] == [
            ("letters", Pooling.MAX),
            ("letters", Pooling.MEAN_STD),
            ("mean", Pooling.ROW),
        ]
        assert (definition.version, definition.options, definition.group) == (first, {"shrinkage": 0.5}, "group")
        assert (definition.where, definition.test_where) == ("number < 25", "number < 6")
        assert (definition.folds, definition.seed, definition.unlabeled) == (3, 2**63, UnlabeledUse.SELF_TRAINING)


REFUSED = {
    "unlabeled items where there are none": ({"unlabeled": UnlabeledUse.SELF_TRAINING}, InvalidInput, "every item has a label"),
    "no set of that name": ({"set": "bords"}, NotFound, "birds"),
    "no target": ({"target": ""}, InvalidInput, "no target is named"),
    "no descriptions": ({"target": "", "kind": "describes"}, InvalidInput, "descriptions of classes, and none is given"),
    "a column that is not there": ({"target": "lable"}, InvalidInput, "'lable'.*label"),
    "a group that is not there": ({"group": "groop"}, InvalidInput, "'groop'"),
    "no kind of that name": ({"kind": "lin"}, InvalidInput, "no trainer 'lin'"),
    "an option that is not the kind's": ({"options": {"l2": 1}}, InvalidInput, "unknown option 'l2'"),
    "an option out of range": ({"options": {"shrinkage": 2}}, InvalidInput, "out of range"),
    "a tap that is not the set's": ({"taps": ("layer3",)}, NotFound, "no tap 'layer3'.*mean, letters"),
    "a tap twice": ({"taps": ("mean", "mean")}, InvalidInput, "twice"),
    "a pooling that nobody knows": ({"poolings": ("min",)}, InvalidInput, "no pooling 'min'"),
    "a pooling of a tap with one row": ({"poolings": ("max",)}, InvalidInput, "pooling 'max' does not suit"),
    "a tap that the task cannot read": (
        {"task": Task.TAGGING, "target": "tags"},
        InvalidInput,
        "tagging needs a row for each token",
    ),
    "one fold": ({"folds": 1}, InvalidInput, "folds = 1"),
    "too many folds": ({"folds": 21}, InvalidInput, "folds = 21"),
    "no SQL": ({"where": "number >"}, InvalidInput, "number >"),
    "a filter that nothing matches": ({"where": "number > 99"}, InvalidInput, "no item.* matches number > 99"),
    "no SQL for the test": ({"test_where": "number >"}, InvalidInput, "number >"),
    "a test that nothing matches": ({"test_where": "number > 99"}, InvalidInput, "no item matches number > 99"),
    "a version that is not there": ({"version": 99}, NotFound, "99"),
    "a target that the kind does not learn": ({"target": "score"}, InvalidInput, "linear does not learn regression"),
    "one class": ({"where": "label = 'vowels'"}, InvalidInput, "all 11 labels are"),
    "a kind that needs inputs": ({"kind": "tunes"}, NotReady, "keeps no raw inputs.*keep_inputs"),
    "a kind that needs descriptions": ({"kind": "describes"}, InvalidInput, "describe each class"),
    "a class without a description": (
        {"kind": "describes", "descriptions": {"vowels": "aeiou", "plosives": "bdg"}},
        InvalidInput,
        "is not described",
    ),
    "descriptions for a kind that reads none": ({"descriptions": {"vowels": "aeiou"}}, InvalidInput, "linear reads no desc"),
    "an empty description": ({"descriptions": {"vowels": " "}}, InvalidInput, "'vowels' has a description that is blank"),
    "a name with a space": ({"name": "a b"}, InvalidInput, "cannot name a head"),
    "a name of two dots": ({"name": "a..b"}, InvalidInput, "cannot name a head"),
    "a name that a lock has": ({"name": "a.lock"}, InvalidInput, "cannot name a head"),
    "a long name": ({"name": "a" * 81}, InvalidInput, "cannot name a head"),
    "a path": ({"name": "../etc"}, InvalidInput, "without '/'"),
    "a pretrained head's name": ({"name": "letters/classes"}, InvalidInput, "comes with its encoder"),
}


async def test_what_cannot_be_trained_is_said_at_once_and_leaves_nothing(home):
    async with open_heads(home) as w:
        feature_set = await w.fill(taps=("mean", "letters"))
        tags = [["0:1:A"]] * 2
        await w.write(feature_set, ["ab", "cd"], ("mean", "letters"), tags=tags, score=[0.5, 1.5], label=["vowels", "others"])
        for name, (fields, kind, words) in REFUSED.items():
            with pytest.raises(kind, match=words) as caught:
                await w.heads.train(replace(BIRDS, **fields))
            assert type(caught.value) is kind, name
        assert w.jobs.started == []
        assert w.pins() == {}
        assert await w.heads.list() == []
        assert (await trained(w)).state is HeadState.READY


async def test_every_pinned_name_can_be_a_head(home):
    async with open_heads(home) as w:
        await w.fill()
        for name in ("a", "A-1_b.c", "x" * 80):
            assert (await trained(w, name=name)).state is HeadState.READY
        assert sorted(w.pins()) == sorted(f"head-{name}" for name in ("a", "A-1_b.c", "x" * 80))


async def test_a_name_is_trained_once_at_a_time(home):
    async with open_heads(home) as w:
        await w.fill()
        w.jobs.gate.clear()
        outcomes = await asyncio.gather(w.heads.train(BIRDS), w.heads.train(BIRDS), return_exceptions=True)
        assert sorted(type(one).__name__ for one in outcomes) == ["AlreadyExists", "HeadDescription"]
        with pytest.raises(AlreadyExists, match="in training"):
            await w.heads.train(replace(BIRDS, replace=True))
        other = await w.heads.train(replace(BIRDS, name="other"))
        assert other.state is HeadState.TRAINING
        w.jobs.gate.set()
        assert (await w.heads.wait_until_trained(of_head("birds-label"))).state is HeadState.READY
        with pytest.raises(AlreadyExists, match="there is a head named 'birds-label'"):
            await w.heads.train(BIRDS)
        assert len(w.jobs.started) == 2


async def test_after_a_training_has_ended_another_may_begin_at_once(home, monkeypatch):
    async with open_heads(home) as w:
        await w.fill()
        settling, settle = threading.Event(), w.heads._release
        monkeypatch.setattr(w.heads, "_release", lambda name: (settling.wait(10), settle(name)))
        begun = await w.heads.train(BIRDS)
        await w.jobs.wait(begun.job.id)
        again = asyncio.create_task(w.heads.train(replace(BIRDS, replace=True)))
        asyncio.get_running_loop().call_later(0.02, settling.set)
        assert (await again).job.id != begun.job.id
        assert (await w.heads.wait_until_trained(of_head("birds-label"))).state is HeadState.READY


async def test_a_head_that_is_replaced_serves_until_the_new_one_is_ready(home):
    async with open_heads(home) as w:
        feature_set = await w.fill()
        old = await trained(w)
        first = feature_set.version
        await w.write(feature_set, ["abc"], label=["vowels"], number=[90], group=["g"])
        w.jobs.gate.clear()
        again = await w.heads.train(replace(BIRDS, replace=True))
        assert (again.state, again.head, again.job.state) == (HeadState.READY, old.head, JobState.RUNNING)
        assert w.pins() == {"head-birds-label": first, "training-birds-label": feature_set.version}
        w.jobs.gate.set()
        new = await w.heads.wait_until_trained(of_head("birds-label"))
        assert (new.head.labeled, new.definition.version) == (31, feature_set.version)
        assert w.pins() == {"head-birds-label": feature_set.version}
        # of another set
        await w.fill("others")
        other = await w.heads.train(replace(BIRDS, set="others", name="birds-label", replace=True))
        assert (await w.heads.wait_until_trained(of_head(other.name))).definition.set == "others"
        assert w.pins() == {"head-birds-label": w.sets.get(of_set("others")).version}
        assert not w.sets.pins()["birds"]


async def test_a_training_that_fails_is_said_and_an_older_head_serves(home):
    async with open_heads(home) as w:
        await w.fill()
        w.jobs.fail = "it was too much"
        failed = await trained(w)
        assert (failed.state, failed.detail) == (HeadState.FAILED, "the last training failed: it was too much")
        assert (failed.definition.target, failed.head) == ("label", None)
        assert w.pins() == {}
        with pytest.raises(NotReady, match=r"it was too much .train it again with replace, or drop it.$"):
            await w.heads.report(of_head("birds-label"))
        w.jobs.fail = ""
        done = await trained(w)  # a failed one is in no other's way
        assert (done.state, done.detail) == (HeadState.READY, "")
        w.jobs.fail = "out of memory"
        pins = w.pins()
        again = await trained(w, replace=True)
        assert again.state is HeadState.READY
        assert again.detail == "the last training failed: out of memory; the head from before serves"
        assert (again.head, w.pins()) == (done.head, pins)


async def test_a_training_that_is_cancelled(home):
    async with open_heads(home) as w:
        await w.fill()
        w.jobs.gate.clear()
        begun = await w.heads.train(BIRDS)
        await w.jobs.cancel(begun.job.id)
        ended = await w.heads.wait_until_trained(of_head("birds-label"))
        assert (ended.state, ended.detail) == (HeadState.FAILED, "the last training was cancelled")
        assert w.pins() == {}


async def test_after_a_restart_records_tell_the_truth(home):
    async with open_heads(home) as w:
        await w.fill()
        await trained(w)
        await trained(w, name="second")
        w.jobs.gate.clear()
        await w.heads.train(replace(BIRDS, name="late"))
    async with open_heads(home) as w:
        [first, late, second] = await w.heads.list()
        assert (first.name, first.state, first.job, first.head.labeled) == ("birds-label", HeadState.READY, None, 30)
        assert (late.name, late.state, late.definition.set) == ("late", HeadState.FAILED, "birds")
        assert "left nothing that serves" in late.detail
        assert second.state is HeadState.READY
        assert sorted(w.pins()) == ["head-birds-label", "head-second"]
        await w.heads.drop(of_head("late"))
        with pytest.raises(NotFound, match=r"'late'.*birds-label"):
            await w.heads.get(of_head("late"))
    async with open_heads(home) as w:
        assert [one.name for one in await w.heads.list()] == ["birds-label", "second"]


async def test_pins_that_a_killed_server_left_are_put_right(home):
    async with open_heads(home) as w:
        feature_set = await w.fill()
        done = await trained(w)
        version = feature_set.version
        await w.write(feature_set, ["abc"], label=["vowels"], number=[90], group=["g"])
        for pin in ("training-never", "head-dropped", "probe-0123456789abcdef", "mine"):
            feature_set.pin(pin)
        # killed between the publication and the move of the pin
        feature_set.unpin("head-birds-label")
        feature_set.pin("head-birds-label")
        feature_set.pin("training-birds-label", version)
        assert done.definition.version == version
    async with open_heads(home) as w:
        assert w.pins() == {"head-birds-label": version, "mine": feature_set.version}


async def test_a_start_opens_no_set_where_all_pins_are_right(home, monkeypatch):
    async with open_heads(home) as w:
        await w.fill()
        await trained(w)
    monkeypatch.setattr("topwork_server.feature_sets.set_registry.FeatureSet", None)
    async with open_heads(home):
        pass


async def test_a_dropped_head_is_gone_with_its_training(home):
    async with open_heads(home) as w:
        await w.fill()
        await trained(w)
        w.jobs.gate.clear()
        again = await w.heads.train(replace(BIRDS, replace=True))
        await w.heads.drop(of_head("birds-label"))
        assert w.jobs.get(again.job.id).state is JobState.CANCELLED
        assert await w.heads.list() == []
        assert w.pins() == {}
        with pytest.raises(NotFound):
            await w.heads.drop(of_head("birds-label"))
        with pytest.raises(NotFound):
            await w.heads.report(of_head("birds-label"))
    async with open_heads(home) as w:
        assert await w.heads.list() == []


async def test_a_head_outlives_its_set(home):
    async with open_heads(home) as w:
        await w.fill()
        await trained(w)
        w.sets.drop(of_set("birds"))
        found = await w.heads.get(of_head("birds-label"))
        assert (found.state, found.definition.set) == (HeadState.READY, "birds")
        await w.heads.drop(of_head("birds-label"))


async def test_a_damaged_head_is_said_and_can_be_dropped_or_trained_again(home):
    async with open_heads(home) as w:
        await w.fill()
        for name in ("one", "two"):
            await trained(w, name=name)
            [record] = (home / "heads" / name).glob("*/head.json")
            record.write_text("{")
        assert [(one.name, one.state) for one in await w.heads.list()] == [("one", HeadState.FAILED), ("two", HeadState.FAILED)]
        assert "damaged" in (await w.heads.get(of_head("one"))).detail
        with pytest.raises(NotReady, match=r"damaged: head\.json") as caught:
            await w.heads.report(of_head("one"))
        assert str(caught.value).count("train it again") == 1
        await w.heads.drop(of_head("one"))
        assert (await trained(w, name="two", replace=True)).state is HeadState.READY


def tuned(w, home, name, base="letters"):
    """An encoder that was fine-tuned, as a training leaves it."""
    weights = home / "weights"
    weights.write_bytes(name.encode())
    return w.catalog.add_fine_tuned(name, base, weights, "mean", "tests").name


async def test_a_tuned_encoder_goes_with_its_head_unless_something_stands_on_it(home):
    async with open_heads(home) as w:
        w.trainers.specs[0] = replace(w.trainers.specs[0], trainer=Tunable)
        encoder = tuned(w, home, "birds-label-0123abcd")
        await w.fill()
        await trained(w, options={"tuned": encoder})
        assert w.catalog.fine_tuned() == [encoder]
        w.sets.create(SetDefinition("later", w.taps("mean"), encoder))
        with pytest.raises(NotReady, match="stand the set later"):
            await w.heads.drop(of_head("birds-label"))
        await w.write_vectors("later", 6, label=["a", "b"] * 3)
        await trained(w, set="later")
        w.sets.drop(of_set("later"))
        with pytest.raises(NotReady, match="stand the head later-label"):
            await w.heads.drop(of_head("birds-label"))
        await w.heads.drop(of_head("later-label"))
        further = tuned(w, home, "further-0123abcd", encoder)
        with pytest.raises(NotReady, match=f"stand the encoder {further}"):
            await w.heads.drop(of_head("birds-label"))
        assert (await w.heads.get(of_head("birds-label"))).state is HeadState.READY
        w.catalog.delete_fine_tuned(further)
        await w.heads.drop(of_head("birds-label"))
        assert w.catalog.fine_tuned() == []


async def test_a_damaged_head_keeps_its_encoder(home):
    async with open_heads(home) as w:
        w.trainers.specs[0] = replace(w.trainers.specs[0], trainer=Tunable)
        encoder = tuned(w, home, "birds-label-0123abcd")
        await w.fill()
        await trained(w, options={"tuned": encoder})
        [record] = (home / "heads" / "birds-label").glob("*/head.json")
        record.write_text("{")
    async with open_heads(home) as w:
        assert w.catalog.fine_tuned() == [encoder]


async def test_a_tuned_encoder_goes_when_its_head_is_replaced_or_was_never_ready(home):
    async with open_heads(home) as w:
        w.trainers.specs[0] = replace(w.trainers.specs[0], trainer=Tunable)
        await w.fill()
        old, new, other = (tuned(w, home, name) for name in ("birds-label-00000000", "birds-label-11111111", "another-00000000"))
        w.jobs.fail = "killed"
        await trained(w)
        assert w.catalog.fine_tuned() == [other]  # of another name, which may be in training
        w.jobs.fail = ""
        old = tuned(w, home, old)
        await trained(w, options={"tuned": old})
        new = tuned(w, home, new)
        w.sets.create(SetDefinition("kept", w.taps("mean"), old))
        await trained(w, options={"tuned": new}, replace=True)
        assert w.catalog.fine_tuned() == [other, old, new]
        w.sets.drop(of_set("kept"))
    async with open_heads(home) as w:
        assert w.catalog.fine_tuned() == [new]


async def test_inputs_and_descriptions_reach_kinds_that_need_them(home, monkeypatch):
    async with open_heads(home) as w:
        feature_set = w.make("texts", ("mean", "letters"), keep_inputs=True)
        texts, classes = words(30)
        await w.write(feature_set, texts, ("mean", "letters"), label=classes)
        tuned = await w.heads.train(TrainRequest("texts", "label", kind="tunes"))
        assert (tuned.definition.kind, tuned.job.kind) == ("tunes", "tune")  # in a line of its own
        for fields, pattern in [
            ({"taps": ("mean", "letters")}, "one tap with one pooling"),
            ({"unlabeled": UnlabeledUse.SELF_TRAINING}, "labeled items alone"),
        ]:
            with pytest.raises(InvalidInput, match=pattern):
                await w.heads.train(TrainRequest("texts", "label", name="n", kind="tunes", **fields))
        descriptions = {"others": "fhjlm", "vowels": "aei", "plosives": "bdg"}
        request = TrainRequest(
            "texts", "label", name="d", kind="describes", taps=("mean", "letters"), poolings=("mean",), descriptions=descriptions
        )
        definition = definition_of(await described(w, request))
        inputs = [TextItem(text) for text in descriptions.values()]
        rows = (await w.engine.embed(EmbedParams(of_encoder("letters"), ("mean",)), inputs)).taps[0].rows
        assert list(definition.descriptions) == list(descriptions)
        for view in definition.described:  # the mean of the letters is what the tap "mean" is
            np.testing.assert_allclose(np.array(view), rows, rtol=1e-5, atol=1e-6)
        again = replace(request, name="e")

        async def refuse(ask, items):
            raise InvalidInput("not a picture", remedy="send one", item=1)

        monkeypatch.setattr(w.engine, "embed", refuse)
        with pytest.raises(
            InvalidInput, match="letters does not embed the description of the class 'vowels' as a text: not a pic"
        ):
            await w.heads.train(again)
        w.sets.create(SetDefinition("vectors", w.taps("mean")))
        await w.write_vectors("vectors", 6, label=["a", "b"] * 3)
        with pytest.raises(NotReady, match="of no encoder, so nothing embeds"):
            await w.heads.train(replace(again, set="vectors", taps=(), poolings=()))
        with pytest.raises(NotReady, match="tunes learns from raw inputs, and the set vectors holds ready vectors"):
            await w.heads.train(TrainRequest("vectors", "label", kind="tunes"))
        assert (await trained(w, set="vectors", name="v")).head.encoder == ""


async def test_descriptions_of_another_trunk_are_refused(home):
    async with open_heads(home) as w:
        [tap] = w.taps("mean")
        w.sets.create(SetDefinition("old", (FingerprintedTap(tap.tap, "0" * 64),), "letters"))
        await w.write_vectors("old", 6, label=["a", "b"] * 3)
        with pytest.raises(NotReady, match="0000"):
            await w.heads.train(TrainRequest("old", "label", kind="describes", descriptions={"a": "one", "b": "two"}))
        assert w.pins() == {}


async def test_a_probe_learns_from_several_sets(home):
    async with open_heads(home) as w:
        await w.fill(taps=("mean", "letters"))
        other = await w.fill("more", taps=("mean",))
        w.jobs.gate.clear()
        job = await w.heads.probe(ProbeRequest(("birds", "more"), "label", where="number < 20", folds=3, seed=7))
        assert (job.kind, job.subject) == ("probe", "birds,more")
        [(call, arguments)] = w.jobs.started
        assert (call, arguments["home"], arguments["threads"]) == (PROBE, str(home), 1)
        birds, more = (definition_of(one) for one in json.loads(json.dumps(arguments["definitions"])))
        assert [(info.tap.name, pooling) for info, pooling in birds.views] == [("mean", Pooling.ROW), ("letters", Pooling.MEAN)]
        assert [(info.tap.name, pooling) for info, pooling in more.views] == [("mean", Pooling.ROW)]
        assert (more.set, more.version, more.folds, more.seed, more.where) == ("more", other.version, 3, 7, "number < 20")
        pins = [pin for name in ("birds", "more") for pin in w.sets.pins()[name]]
        assert len(pins) == 2
        assert len(set(pins)) == 1
        assert pins[0].startswith("probe-")
        w.jobs.gate.set()
        await w.jobs.wait(job.id)
        await w.heads.close()
        assert w.pins() == {}


async def test_a_probe_takes_the_taps_that_are_named_or_suit(home):
    async with open_heads(home) as w:
        await w.fill(taps=("mean", "letters"))
        await w.fill("more", taps=("mean",))
        tagged = w.make("tagged", ("mean", "letters"))
        texts, _ = words(6)
        await w.write(tagged, texts, ("mean", "letters"), tags=[["0:2:A"], ["3:5:B"]] * 3)
        w.trainers.specs[0] = replace(w.trainers.specs[0], min_per_class=1)
        await w.heads.probe(ProbeRequest(("tagged",), "tags", task=Task.TAGGING))
        await w.heads.probe(ProbeRequest(("birds",), "label", taps=("letters",), poolings=("max", "mean")))
        views = [arguments["definitions"][0]["views"] for _, arguments in w.jobs.started]
        assert [[(info["tap"]["name"], pooling) for info, pooling in one] for one in views] == [
            [("letters", "rows")],
            [("letters", "max"), ("letters", "mean")],
        ]


async def test_bad_probes_are_refused_and_pin_nothing(home):
    async with open_heads(home) as w:
        await w.fill(taps=("mean", "letters"))
        feature_set = w.make("more")
        await w.write(feature_set, [f"{'abc' * i}" for i in range(1, 31)], label=[i / 2 for i in range(30)])
        for fields, kind, pattern in [
            ({"sets": ()}, InvalidInput, "no set is named"),
            ({"sets": ("birds", "birds")}, InvalidInput, "twice"),
            ({"sets": ("birds", "bords")}, NotFound, "bords"),
            ({"kind": "tunes"}, InvalidInput, "frozen features"),
            ({"kind": "describes"}, InvalidInput, "descriptions"),
            ({"kind": "lin"}, InvalidInput, "no trainer 'lin'"),
            ({"taps": ("layer3",)}, NotFound, "no set has a tap 'layer3'"),
            ({"sets": ("birds", "more"), "taps": ("letters",)}, NotFound, "the set more has none of those taps"),
            ({"target": "lable"}, InvalidInput, "lable"),
            ({"sets": ("birds", "more"), "task": Task.CLASSIFICATION}, InvalidInput, "float"),
        ]:
            with pytest.raises(kind, match=pattern):
                await w.heads.probe(replace(ProbeRequest(("birds",), "label"), **fields))
        w.trainers.specs[0] = replace(w.trainers.specs[0], trainer=Anything)
        with pytest.raises(InvalidInput, match="different tasks: classification in birds, regression in more"):
            await w.heads.probe(ProbeRequest(("birds", "more"), "label"))
        assert w.jobs.started == []
        assert w.pins() == {}


async def test_a_server_that_stops_begins_nothing_and_holds_nothing(home):
    async with open_heads(home) as w:
        feature_set = await w.fill()
        w.jobs.gate.clear()
        await w.heads.train(BIRDS)
        await w.heads.probe(ProbeRequest(("birds",), "label"))
        assert len(w.sets.pins()["birds"]) == 2
        await w.jobs.close()
        await w.heads.close()
        assert w.pins() == {}
        for begin in (lambda: w.heads.train(replace(BIRDS, name="b")), lambda: w.heads.probe(ProbeRequest(("birds",), "label"))):
            with pytest.raises(Unavailable):
                await begin()
        assert w.pins() == {}
        assert feature_set.version


async def described(w, request):
    await w.heads.train(request)
    return json.loads(json.dumps(w.jobs.started[-1][1]["definition"]))
