"""What a training may measure drift from: the settings of the reference that go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffalign.training.settings import Curriculum

if TYPE_CHECKING:
    from diffalign.objectives import Needs
    from pipelines.train import Train


def check_reference(section: Train, needs: Needs) -> None:
    """ValueError where a reference other than the initial one does not go with the rest."""
    name = section.reference.name
    if needs.reference is None:
        raise ValueError(
            f"reference {name!r} is for objectives that measure drift, and {section.objective['name']!r} has no reference; "
            f"remove train.reference, or choose another objective"
        )
    if name == "adapter" and section.lora is None:
        raise ValueError(
            "reference 'adapter' is switched with the one that is trained, and train.lora is not set; set it, or start full "
            "fine-tuning from the reference by model.adapter"
        )
    if name == "previous_stage" and not isinstance(section.order, Curriculum):
        raise ValueError(
            "reference 'previous_stage' changes when a stage begins, and order is 'shuffle', which has none; "
            "set train.order={name: curriculum, stages: 3, cumulative: false}, or train.reference=initial"
        )
    if section.reference_dtype != "float32":
        raise ValueError(
            f"reference_dtype {section.reference_dtype!r} is of the frozen copy, and reference {name!r} has the policy's own type; "
            f"remove train.reference_dtype, or set train.reference=initial"
        )


def check_errors_ahead(section: Train, needs: Needs) -> None:
    """ValueError where a step needs more of the reference than the error that it has on what is known before the first step."""
    from diffalign.noising import WITHOUT_NETWORKS
    from diffalign.stabilisers import READS_PREDICTION

    name, noising = section.objective["name"], section.noising["name"]
    live, inverts = "set train.reference_errors=live", noising not in WITHOUT_NETWORKS
    cannot = (
        (needs.reference is None, f"objective {name!r} has no reference", "remove train.reference_errors"),
        (needs.reference == "prediction", f"objective {name!r} reads the reference's whole prediction", live),
        (needs.own_samples, f"objective {name!r} trains on what the policy samples later", live),
        ("mismatched" in needs.reads, f"objective {name!r} reads predictions under other prompts", live),
        (section.lora is not None, "under LoRA the base is the reference, without a copy", "remove train.reference_errors"),
        (section.reference.name != "initial", f"reference {section.reference.name!r} moves", "set train.reference=initial"),
        (
            inverts and section.noising.get("network", "policy") != "reference",
            f"noising {noising!r} runs the policy",
            f"set train.noising.network=reference, or train.noising to {' or '.join(WITHOUT_NETWORKS)}",
        ),
        (inverts and section.reference_cache is None, f"noising {noising!r} keeps what it runs", "set train.reference_cache to a folder"),
        (inverts and section.sft_steps > 0, f"noising {noising!r} runs in train.sft_steps too", live),
        *(
            (each in section.stabilisers, f"{each!r} reads the reference's whole prediction", "remove that stabiliser")
            for each in READS_PREDICTION
        ),
        (
            not inverts and section.reference_cache is not None,
            f"a cache keeps predictions, and with noising {noising!r} no step has any",
            "remove train.reference_cache",
        ),
        (section.reference_dtype != "float32", "there is no copy in another type", "remove train.reference_dtype"),
        (section.reference_device != "same", "there is no copy to rest in main memory", "remove train.reference_device"),
    )
    for is_so, why, fix in cannot:
        if is_so:
            raise ValueError(f"reference_errors 'ahead' gives the reference's error alone, without a copy of it: {why}; {fix}")
