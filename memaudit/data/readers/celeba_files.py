"""The text files beside CelebA's images: which split an image belongs to, and whose face it shows.

Format: a file name and a number in each line. https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html
"""

PARTITION = "list_eval_partition.txt"
IDENTITY = "identity_CelebA.txt"
OTHERS = ("list_attr_celeba.txt", "list_bbox_celeba.txt", "list_landmarks_align_celeba.txt")
"""Files that say nothing an audit needs."""


def read_numbers(data: bytes) -> dict[str, str]:
    """File name → number, as text.

    Raises:
        ValueError: a line is something else.
    """
    found = {}
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or not (words[1].isascii() and words[1].isdecimal()):
            raise ValueError(f"line {number} is not a file name and a number")
        found[words[0]] = words[1]
    return found
