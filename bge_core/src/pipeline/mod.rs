//! All steps from one file: validate, mine, score, train, evaluate; what is current is skipped.
