"""Which topic each module of the standard library belongs to, as its documentation says.

The library reference sorts its modules into chapters. ``_CHAPTERS`` repeats that table of contents (edition 3.14,
with the submodules that a page describes) and ``_CHAPTERS_OF_TOPIC`` merges the chapters into a dozen topics. A
function's gold topic is the topic of its module's chapter. Nobody labelled single functions, and no module was moved
to where a classifier would like it better: ``asyncio`` counts as networking because that is its chapter.

Left out: the built-ins, which are about everything (a classifier found the topic of a third of them); "Superseded
Modules", a chapter about the age of its modules; pages without functions of their own; modules that act when
imported (``readline`` and ``rlcompleter`` set up the terminal, ``this`` and ``antigravity`` speak up); programs rather
than libraries (``idlelib``, ``turtle``, ``test``).
"""

from __future__ import annotations

from typing import Final

# Which chapters are merged and how topics are worded was chosen by the accuracy on functions whose id has a SHA-256
# starting with 8 to f. That half flatters (0.61 against 0.56), so quote the other; samples to 1,100 rows lie in it.
TOPICS: Final[dict[str, str]] = {
    "text": "regular expressions, searching and replacing in text, comparing lines, and locales",
    "data types": "calendars, collections, enumerations and sorted lists",
    "mathematics": (
        "trigonometry, logarithms and square roots, decimals and fractions, and random numbers from a distribution"
    ),
    "functional programming": "iterating over elements, combinations and permutations, and comparison of a and b",
    "operating system and files": "paths and permissions, process ids, clocks, logging, and input and output streams",
    "storage and binary data": "saving pickled objects, SQL databases, zip and tar archives, hashes and codecs",
    "data formats": "parsing XML documents and CSV files, sound files, and the sections and options of a configuration",
    "internet": "URLs, HTTP requests and responses, e-mail headers, MIME and base64",
    "command line": "command-line options and help, and the cursor, colours and keys of a terminal",
    "graphical interfaces": "windows and text widgets, asking the user, and choosing a file or colour",
    "concurrency and networking": "event loops, signals, secure connections, protocols and transports",
    "Python itself": (
        "inspecting objects and frames, imports, tracebacks, type hints, context managers and unit tests"
    ),
}

# Modules stand in the order of the reference: of two that export the same object, the earlier one is its page.
_CHAPTERS: Final[dict[str, str]] = {
    "Text Processing Services": "string re difflib textwrap unicodedata stringprep",
    "Binary Data Services": "struct codecs",
    "Data Types": (
        "datetime zoneinfo calendar collections collections.abc heapq bisect array weakref types copy pprint "
        "reprlib enum graphlib"
    ),
    "Numeric and Mathematical Modules": "numbers math cmath decimal fractions random statistics",
    "Functional Programming Modules": "itertools functools operator",
    "File and Directory Access": "pathlib os.path stat filecmp tempfile glob fnmatch linecache shutil",
    "Data Persistence": "pickle copyreg shelve marshal dbm dbm.gnu dbm.ndbm dbm.dumb sqlite3",
    "Data Compression and Archiving": "zlib gzip bz2 lzma zipfile tarfile",
    "File Formats": "csv configparser tomllib netrc plistlib",
    "Cryptographic Services": "hashlib hmac secrets",
    "Generic Operating System Services": (
        "os io time logging logging.config logging.handlers platform errno ctypes ctypes.util"
    ),
    "Command-line Interface Libraries": (
        "argparse optparse getpass fileinput curses curses.textpad curses.ascii curses.panel cmd"
    ),
    "Concurrent Execution": (
        "threading multiprocessing multiprocessing.shared_memory multiprocessing.managers multiprocessing.pool "
        "multiprocessing.connection multiprocessing.dummy concurrent.futures subprocess sched queue contextvars"
    ),
    "Networking and Interprocess Communication": "asyncio socket ssl select selectors signal mmap",
    "Internet Data Handling": (
        "email email.message email.parser email.generator email.policy email.headerregistry email.contentmanager "
        "email.mime.application email.mime.audio email.mime.base email.mime.image email.mime.message "
        "email.mime.multipart email.mime.nonmultipart email.mime.text email.header email.charset email.encoders "
        "email.utils email.iterators email.errors json mailbox mimetypes base64 binascii quopri"
    ),
    "Structured Markup Processing Tools": (
        "html html.parser html.entities xml.etree.ElementTree xml.dom xml.dom.minidom xml.dom.pulldom xml.sax "
        "xml.sax.handler xml.sax.saxutils xml.sax.xmlreader xml.parsers.expat"
    ),
    "Internet Protocols and Support": (
        "webbrowser wsgiref.util wsgiref.headers wsgiref.simple_server wsgiref.validate wsgiref.handlers "
        "urllib.request urllib.response urllib.parse urllib.error urllib.robotparser http http.client ftplib poplib "
        "imaplib smtplib uuid socketserver http.server http.cookies http.cookiejar xmlrpc.client xmlrpc.server "
        "ipaddress"
    ),
    "Multimedia Services": "wave colorsys",
    "Internationalization": "gettext locale",
    "Graphical User Interfaces with Tk": (
        "tkinter tkinter.colorchooser tkinter.font tkinter.simpledialog tkinter.filedialog tkinter.commondialog "
        "tkinter.messagebox tkinter.scrolledtext tkinter.dnd tkinter.ttk"
    ),
    "Development Tools": "typing pydoc doctest unittest unittest.mock",
    "Debugging and Profiling": "bdb faulthandler pdb profile cProfile pstats timeit trace tracemalloc",
    "Software Packaging and Distribution": "ensurepip venv zipapp",
    "Python Runtime Services": ("sys sysconfig warnings dataclasses contextlib abc atexit traceback gc inspect site"),
    "Custom Python Interpreters": "code codeop",
    "Importing Modules": (
        "zipimport pkgutil modulefinder runpy importlib importlib.abc importlib.machinery importlib.util "
        "importlib.resources importlib.resources.abc importlib.metadata"
    ),
    "Python Language Services": (
        "ast symtable token keyword tokenize tabnanny pyclbr py_compile compileall dis pickletools"
    ),
    "MS Windows Specific Services": "msvcrt winreg winsound",
    "Unix-specific Services": "shlex pwd grp termios tty pty fcntl resource syslog",
}

_CHAPTERS_OF_TOPIC: Final[dict[str, tuple[str, ...]]] = {
    "text": ("Text Processing Services", "Internationalization"),
    "data types": ("Data Types",),
    "mathematics": ("Numeric and Mathematical Modules",),
    "functional programming": ("Functional Programming Modules",),
    "operating system and files": (
        "File and Directory Access",
        "Generic Operating System Services",
        "MS Windows Specific Services",
        "Unix-specific Services",
    ),
    "storage and binary data": (
        "Binary Data Services",
        "Data Persistence",
        "Data Compression and Archiving",
        "Cryptographic Services",
    ),
    "data formats": ("File Formats", "Structured Markup Processing Tools", "Multimedia Services"),
    "internet": ("Internet Data Handling", "Internet Protocols and Support"),
    "command line": ("Command-line Interface Libraries",),
    "graphical interfaces": ("Graphical User Interfaces with Tk",),
    "concurrency and networking": ("Concurrent Execution", "Networking and Interprocess Communication"),
    "Python itself": (
        "Development Tools",
        "Debugging and Profiling",
        "Software Packaging and Distribution",
        "Python Runtime Services",
        "Custom Python Interpreters",
        "Importing Modules",
        "Python Language Services",
    ),
}

# The keys are partition keys: short words, safe in a path and on a command line.
MODULE_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "text": ("text",),
    "data": ("data types", "functional programming"),
    "math": ("mathematics",),
    "system": ("operating system and files",),
    "storage": ("storage and binary data", "data formats"),
    "internet": ("internet",),
    "interface": ("command line", "graphical interfaces"),
    "concurrency": ("concurrency and networking",),
    "python": ("Python itself",),
}

CHAPTER_OF_MODULE: Final[dict[str, str]] = {
    module: chapter for chapter, modules in _CHAPTERS.items() for module in modules.split()
}
_TOPIC_OF_CHAPTER: Final = {chapter: topic for topic, chapters in _CHAPTERS_OF_TOPIC.items() for chapter in chapters}
_GROUP_OF_TOPIC: Final = {topic: group for group, topics in MODULE_GROUPS.items() for topic in topics}
TOPIC_OF_MODULE: Final = {module: _TOPIC_OF_CHAPTER[chapter] for module, chapter in CHAPTER_OF_MODULE.items()}
GROUP_OF_MODULE: Final = {module: _GROUP_OF_TOPIC[topic] for module, topic in TOPIC_OF_MODULE.items()}
