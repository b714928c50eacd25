"""Imports go one way, as docs/architecture.md draws it, and none of them in a circle."""

from architecture import against_direction, circle, import_graph, may_import, room_of


def test_no_import_runs_in_a_circle():
    assert circle(import_graph()) == []


def test_every_import_goes_with_the_direction():
    assert against_direction(import_graph()) == []


def test_what_the_direction_forbids_is_found():
    assert circle({"a": {"b"}, "b": {"a"}}) and not circle({"a": {"b"}, "b": set()})
    graph = {"clinsynth.data.images": {"clinsynth.trainers.train_ddpm"}, "clinsynth.models.weights": set()}
    assert against_direction(graph) == ["clinsynth.data.images -> clinsynth.trainers.train_ddpm"]
    assert not may_import("hub", "scripts") and not may_import("pipelines", "core") and may_import("scripts", "hub")
    assert (room_of("clinsynth.run_folder"), room_of("clinsynth.metrics.texts.words")) == ("core", "metrics")
