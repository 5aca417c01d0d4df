"""FLAN's collections → the query sets FLAN-5M and FLAN-1M (section 3.1 of arXiv 2306.02707)."""

from orca.mixture.contamination import Contamination
from orca.mixture.cot import CotTables
from orca.mixture.duplicates import ExactDuplicates, NearDuplicates
from orca.mixture.hygiene import Language, Lengths
from orca.mixture.messages import SYSTEM_MESSAGE_IDS, SystemMessages
from orca.mixture.mixture import Collection, Mixture
from orca.mixture.multiple_choice import shows_options
from orca.mixture.natural_instructions import NaturalInstructions
from orca.mixture.promptsource import Promptsource, RawSet
from orca.mixture.sampling import AlgorithmOne, Stratified, TakeAll, UniformOverQueries
from orca.mixture.tables import QueryTable

__all__ = [
    "SYSTEM_MESSAGE_IDS",
    "AlgorithmOne",
    "Collection",
    "Contamination",
    "CotTables",
    "ExactDuplicates",
    "Language",
    "Lengths",
    "Mixture",
    "NaturalInstructions",
    "NearDuplicates",
    "Promptsource",
    "QueryTable",
    "RawSet",
    "Stratified",
    "SystemMessages",
    "TakeAll",
    "UniformOverQueries",
    "shows_options",
]
