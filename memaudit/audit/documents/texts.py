"""The texts that an annex follows: what each of them asks, in its order, with the place.

Only what the texts are known to say is stated, in our words and as briefly as possible. To add one,
add an `OfficialText` to `TEXTS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FactGroup = Literal[
    "model",
    "data",
    "persons",
    "indications",
    "attacks",
    "not_run",
    "results",
    "coincidence",
    "detection",
    "residual",
    "responsible",
    "record",
]
"""Groups of facts that annex.py takes from a report, by the functions of their names in facts/."""


@dataclass(frozen=True)
class Part:
    """A part of an annex."""

    title: str
    asks: str
    """What the text asks there, and where it does."""
    groups: tuple[FactGroup, ...]


@dataclass(frozen=True)
class OfficialText:
    """A text that says what a document on the privacy of a model has to tell."""

    short: str
    name: str
    """Title, who issued it and when."""
    parts: tuple[Part, ...]


EDPB = OfficialText(
    short="EDPB Opinion 28/2024",
    name="European Data Protection Board, Opinion 28/2024 on certain data protection aspects "
    "related to the processing of personal data in the context of AI models, adopted on "
    "17 December 2024",
    parts=(
        Part(
            "The model, its training data and the persons concerned",
            "Whether a model trained on personal data is anonymous is assessed case by case "
            "(section 3.2).",
            ("model", "data", "persons"),
        ),
        Part(
            "Design of the model",
            "Among the elements to evaluate: how the training data was selected and prepared, and "
            "how the model was trained (section 3.2, AI model design); the ratio of training data "
            "to parameters (section 3.2, AI model documentation). Engineering governance and "
            "audits of documents (AI model analysis) have no part here.",
            ("indications",),
        ),
        Part(
            "Testing and resistance to attacks",
            "Structured testing against attribute and membership inference, exfiltration, "
            "regurgitation of training data, model inversion and reconstruction attacks "
            "(section 3.2, AI model testing and resistance to attacks).",
            ("attacks", "not_run"),
        ),
        Part(
            "Likelihood of extraction, and of obtaining training data from queries",
            "For a model to be considered anonymous, both should be insignificant for any data "
            "subject, considering all means reasonably likely to be used (section 3.2). What "
            "follows is about shares of generated images, and not the likelihood for a person.",
            ("results", "coincidence", "detection"),
        ),
        Part(
            "Residual likelihood",
            "To be considered: training data, model and training; the context in which the model "
            "is released or used; information, cost, time and technology that identification would "
            "take; who may access the model, unintended persons included (section 3.2).",
            ("residual",),
        ),
        Part(
            "Documentation of the tests",
            "Reports on how the model was tested: by whom, when, how and to what extent, with the "
            "results (section 3.2, AI model documentation).",
            ("responsible", "record"),
        ),
    ),
)

CNIL = OfficialText(
    short="CNIL, status of an AI model under the GDPR",
    name="Commission nationale de l’informatique et des libertés (CNIL), recommendations on the "
    "development of AI systems, how-to sheet “Analyser le statut "  # codespell:ignore analyser
    "d’un modèle d’IA au regard du RGPD”, published on 22 July 2025",
    parts=(
        Part(
            "Was the model trained on personal data?",
            "The provider of a model that was trained on personal data analyzes whether the model "
            "itself falls under the GDPR, and documents the analysis.",
            ("model", "data", "persons"),
        ),
        Part(
            "Indications that the model may hold training data",
            "Characteristics of data, model and training that make memorization more or less "
            "likely.",
            ("indications",),
        ),
        Part(
            "Re-identification attacks that were tested",
            "Tests of attacks that try to extract or infer personal data from the model.",
            ("attacks", "not_run"),
        ),
        Part(
            "Results of the attacks",
            "The likelihood of extracting personal data, with means reasonably likely to be used, "
            "must be insignificant for the GDPR not to apply to the model. What follows is about "
            "shares of generated images, and not the likelihood for a person.",
            ("results", "coincidence", "detection"),
        ),
        Part(
            "What remains",
            "The analysis states what was not excluded.",
            ("residual",),
        ),
        Part(
            "Record of the analysis",
            "The analysis and its tests are documented for the authority.",
            ("responsible", "record"),
        ),
    ),
)

NIST = OfficialText(
    short="NIST AI RMF, MEASURE",
    name="National Institute of Standards and Technology, AI Risk Management Framework 1.0 (NIST "
    "AI 100-1, January 2023), MEASURE function; Generative AI Profile (NIST AI 600-1, July 2024); "
    "taxonomy of attacks, NIST AI 100-2 E2025 (March 2025)",
    parts=(
        Part(
            "What was measured: model, test sets and tools",
            "Test sets, metrics and details about the tools are documented (AI 100-1, MEASURE "
            "2.1).",
            ("model", "data", "persons"),
        ),
        Part(
            "Approaches and metrics, and what was not measured",
            "Approaches and metrics are selected, and risks that will not or cannot be measured "
            "are documented (AI 100-1, MEASURE 1.1). Privacy attacks in AI 100-2 E2025 include "
            "data reconstruction, membership inference, property inference and model extraction; "
            "the names below are memaudit’s.",
            ("attacks", "not_run"),
        ),
        Part(
            "Privacy risk",
            "The privacy risk is examined and documented (AI 100-1, MEASURE 2.10); AI 600-1, "
            "section 2.4, Data Privacy; of what MS-2.10-001 names, output of training data samples "
            "and membership inference; MS-2.10-003, duplicates in the training data.",
            ("results", "indications"),
        ),
        Part(
            "Effectiveness of the metrics",
            "The effectiveness of the metrics and processes used is evaluated and documented "
            "(AI 100-1, MEASURE 2.13).",
            ("coincidence", "detection"),
        ),
        Part(
            "Limits and remaining risk",
            "Limits of how far the results generalize are documented (AI 100-1, MEASURE 2.5).",
            ("residual",),
        ),
        Part(
            "Who measured",
            "Internal experts who did not serve as front-line developers of the system, "
            "independent assessors, or both are involved (AI 100-1, MEASURE 1.3).",
            ("responsible", "record"),
        ),
    ),
)

TEXTS: Mapping[str, OfficialText] = {"edpb": EDPB, "cnil": CNIL, "nist": NIST}
"""The texts by the name that a command takes."""
