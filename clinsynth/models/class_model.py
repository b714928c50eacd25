"""An image classifier that stands beside generated pictures: loaded by folder or Hub id, its classes by name."""

from __future__ import annotations

from typing import Any

from clinsynth.data.labels import first_of


def load_class_model(flag: str, name: str) -> Any:
    """An image classifier that `clinsynth.trainers.train_image_classifier.predict` takes.

    Raises:
        ValueError: it cannot be loaded.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from clinsynth.models.image_classifiers import with_inputs_of

    try:
        model: Any = AutoModelForImageClassification.from_pretrained(name)
        processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{flag} {name} cannot be loaded ({error}); give the folder or Hub id of an image classifier with its "
            "preprocessor_config.json (best-real of `clinsynth train image-classifier`)"
        ) from error
    network: Any = with_inputs_of(model, processor)
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def class_numbers(flag: str, model: Any, names: list[str]) -> list[int]:
    """The classifier's number of each of `names`.

    Raises:
        ValueError: it does not know one of them.
    """
    known = {name: int(number) for number, name in model.config.id2label.items()}
    for name in names:
        if name not in known:
            raise ValueError(f"{flag} has the classes {first_of(known)}, without {name!r}; give one that has it")
    return [known[name] for name in names]
