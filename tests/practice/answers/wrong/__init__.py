"""Wrong answers: each makes a mistake that a teacher would refuse."""
