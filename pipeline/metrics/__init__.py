"""The metrics, one row each in `table`: what is kept of an example, the score, how it is shown.

Every score is a function of statistics summed over examples, so that a resampled test set costs a
sum and no model: a loss is nats over target tokens, a rate a sum over a count, BLEU and chrF the
counts of n-grams that sacrebleu takes from each sentence, F1 of labels what each label is counted
for.

The schema of params.yaml lists the metrics, and the command line starts with that schema: numpy and
the libraries of scores are imported where a score is computed.
"""
