"""Tasks on points, grids, dice, times and families."""

from __future__ import annotations

from megan_jax.data.suite.task_forms import (
    BOOLEANS,
    TaskSpec,
    corners,
    found,
    kinship,
    matrix,
    meta,
    rows,
    when,
)

_GEOMETRY = {"min_coord": -5, "max_coord": 5}

PUZZLES: tuple[TaskSpec, ...] = (
    TaskSpec(
        "advanced_geometry/angle",
        "advanced_geometry",
        corners,
        (
            "The points are A, B and C of a triangle: give the angle at B in degrees.",
            "Measure the angle ABC.",
            "How many degrees has the triangle's second corner?",
            "Compute the angle between BA and BC.",
        ),
        {**_GEOMETRY, "task_types": ["angle_measure"]},
    ),
    TaskSpec(
        "advanced_geometry/orthocenter",
        "advanced_geometry",
        corners,
        (
            "Find the orthocenter of the triangle with these corners.",
            "Where do the triangle's altitudes meet?",
            "Give the coordinates of the intersection of the heights.",
            "Compute the point that all three altitudes share.",
        ),
        {**_GEOMETRY, "task_types": ["orthocenter"]},
    ),
    TaskSpec(
        "advanced_geometry/incircle_radius",
        "advanced_geometry",
        corners,
        (
            "Find the radius of the incircle of the triangle with these corners.",
            "How large is the circle that touches all three sides?",
            "Give the inradius of the triangle.",
            "Compute area over half the perimeter.",
        ),
        {**_GEOMETRY, "task_types": ["incircle_radius"]},
    ),
    TaskSpec(
        "spiral_matrix",
        "spiral_matrix",
        matrix,
        (
            "Read the matrix in a clockwise spiral from the top left.",
            "List the entries along a spiral that winds inwards.",
            "Go round the grid clockwise to its centre and write what you meet.",
            "Unroll the matrix spirally.",
        ),
        {"min_n": 2, "max_n": 3},
    ),
    TaskSpec(
        "rotate_matrix",
        "rotate_matrix",
        matrix,
        (
            "Rotate the matrix clockwise by 90 degrees.",
            "Turn the grid a quarter to the right.",
            "The first column, read upwards, becomes the first row; and so on.",
            "Give the matrix after one clockwise quarter turn.",
        ),
        {"min_n": 2, "max_n": 3, "min_rotations": 1, "max_rotations": 1},
        answer=rows,
    ),
    TaskSpec(
        "pool_matrix/max",
        "pool_matrix",
        when("pool_type", "max", matrix),
        (
            "Max-pool the matrix with blocks of two by two.",
            "Replace each 2×2 block by its largest entry.",
            "Take the maximum over blocks of size two.",
            "Downsample the grid by keeping the greatest value of every block.",
        ),
        {"max_rows": 3, "max_cols": 3, "min_pool_size": 2, "max_pool_size": 2},
        answer=rows,
    ),
    TaskSpec(
        "binary_alternation",
        "binary_alternation",
        meta("string"),
        (
            "The fewest swaps that make the bits alternate, or -1.",
            "How many swaps of two characters turn it into 0101... or 1010...?",
            "Count the swaps needed until no neighbours are equal; -1 if it can't be done.",
            "Minimum number of exchanges for an alternating string.",
        ),
        {"min_n": 5, "max_n": 10},
    ),
    TaskSpec(
        "dice",
        "dice",
        found(r"dice: ([^.]*)\. .*rolling (\d+) or higher", "{0} | {1}"),
        (
            "The chance, as a fraction, that the dice show at least the number after the bar.",
            "Probability of rolling that total or more with these dice.",
            "Give the odds of reaching the target with one throw of all dice.",
            "How likely is a sum that isn't below the last number? Answer with a fraction.",
        ),
        {"num_dice": 3, "max_dice_size": 12},
    ),
    TaskSpec(
        "time_intervals",
        "time_intervals",
        # The dates before the clock times are those of the day on which the rows were made.
        lambda e: ", ".join(str(e["metadata"][end])[11:19] for end in ("start_time", "end_time")),
        (
            "How much time passes from the first time to the second?",
            "Give the duration between the two clock times as HH:MM:SS.",
            "Subtract the start from the end.",
            "Compute the elapsed time.",
        ),
        {"task_types": ["time_seconds"]},
    ),
    TaskSpec(
        "leg_counting",
        "leg_counting",
        found(r"if you have (.*)\?"),
        (
            "Count all the legs of the animals.",
            "How many legs are there in total?",
            "Add up the legs.",
            "Give the number of legs, every animal counted.",
        ),
        {"min_animals": 2, "max_animals": 3, "max_instances": 6},
    ),
    TaskSpec(
        "family_relationships",
        "family_relationships",
        kinship,
        (
            "Name what the first of the two people at the end is to the second.",
            "How is the person named last but one related to the last?",
            "Give the word for their kinship.",
            "State the family relationship of the final pair.",
        ),
        {"min_family_size": 4, "max_family_size": 4},
    ),
    TaskSpec(
        "course_schedule",
        "course_schedule",
        found(r"take course a_i:\n\[(.*?)\]"),
        (
            "Each pair (a, b) says that b comes before a: can all be done? True or False.",
            "Are the prerequisites free of cycles? Answer True or False.",
            "Say True if there is an order that respects every pair.",
            "Check whether every course can be finished.",
        ),
        {
            "min_num_courses": 3,
            "max_num_courses": 5,
            "max_num_prerequisites": 1,
            "max_cycle_length": 3,
        },
        options=BOOLEANS,
    ),
)
