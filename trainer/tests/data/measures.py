"""Writes measures.json: ROUGE by the package rouge-score 0.1.2, F1 and exact match by SQuAD's formula.

    pip install rouge-score==0.1.2
    python3 measures.py > measures.json
"""

import collections
import json
import re
import string

from rouge_score import rouge_scorer

CASES = [
    ("the cat sat on the mat", "the cat was on the mat"),
    ("The cat sat on the mat.", "the cat sat on the mat"),
    ("", "something"),
    ("something", ""),
    ("", ""),
    ("a the an", "the"),
    ("police killed the gunman", "police kill the gunman"),
    ("the gunman kill police", "police killed the gunman"),
    ("a b c d e f g", "a x b y c z d"),
    ("x y z", "a b c"),
    ("In 1969, Neil Armstrong walked on the Moon.", "Neil Armstrong walked on the moon in 1969"),
    ("It's 3.5 km away", "its 35 km away"),
    ("Paris, France", "Paris"),
    ("the the the", "the"),
    ("one two one two", "one one two two"),
    ("Die Stra\u00dfe ist lang", "die strasse ist lang"),
    ("caf\u00e9 cr\u00e8me", "cafe creme"),
    ("well-known fact", "well known fact"),
    ("U.S.A.", "USA"),
    ("An apple a day keeps the doctor away", "apples keep doctors away"),
    ("line one\nline two", "line two\nline one"),
    ("  spaces   everywhere  ", "spaces everywhere"),
    ("42", "42.0"),
    ("$1,000", "1000"),
    ("\u4e2d\u6587 text", "text \u4e2d\u6587"),
]


def normalized(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(answer, reference):
    answer, reference = normalized(answer).split(), normalized(reference).split()
    same = sum((collections.Counter(answer) & collections.Counter(reference)).values())
    if same == 0:
        return [0.0, 0.0, 0.0]
    precision, recall = same / len(answer), same / len(reference)
    return [precision, recall, 2 * precision * recall / (precision + recall)]


scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
found = []
for answer, reference in CASES:
    scores = scorer.score(reference, answer)
    case = {"answer": answer, "reference": reference}
    case.update({name: list(score) for name, score in scores.items()})
    case["f1"] = f1(answer, reference)
    case["exact"] = normalized(answer) == normalized(reference)
    found.append(case)
print(json.dumps(found, indent=1))
