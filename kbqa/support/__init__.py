"""Is a sentence of an answer borne out by the passages, and by which words of theirs?

A sentence is supported when a sentence or table row of the passages (a quote) says each of its clauses, or when
several quotes do, one after the other. A quote says a clause when

- all words of the clause stand in it, or in what surrounds it (title, heading path, table header, and before the
  clause has said anything of its own, the sentences before the quote); words that a paraphrase adds or drops freely
  do not count,
- no number stands where the quote has another one,
- both negate the same words,
- no two words have changed places.

Nothing is learned and no model is asked, so that a verdict can be explained: `Support.doubts` names what speaks
against the sentence. `numbers` spells numbers alike, `wording` takes a text apart, `judge` holds a clause against a
quote, `check` puts the clauses together. `reply` finds the sentences of an answer that is still being written.
"""

from kbqa.support.check import Support, check, says_something
from kbqa.support.passage import Quote
from kbqa.support.reply import Reply

__all__ = ["Quote", "Reply", "Support", "check", "says_something"]
