"""FLAN's collections → the query sets FLAN-5M and FLAN-1M (section 3.1 of arXiv 2306.02707)."""

from orca.mixture.contamination import Contamination
from orca.mixture.cot import CotTables
from orca.mixture.duplicates import ExactDuplicates, NearDuplicates
from orca.mixture.hygiene import Language, Lengths
from orca.mixture.natural_instructions import NaturalInstructions
from orca.mixture.promptsource import Promptsource, RawSet
from orca.mixture.sampling import AlgorithmOne, Stratified, TakeAll, UniformOverQueries
from orca.mixture.tables import QueryTable

__all__ = [
    "AlgorithmOne",
    "Contamination",
    "CotTables",
    "ExactDuplicates",
    "Language",
    "Lengths",
    "NaturalInstructions",
    "NearDuplicates",
    "Promptsource",
    "QueryTable",
    "RawSet",
    "Stratified",
    "TakeAll",
    "UniformOverQueries",
]
