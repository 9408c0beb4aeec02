"""Which topic each module of the standard library belongs to, as its documentation says.

The library reference sorts its modules into chapters. ``_CHAPTERS`` repeats that table of contents (edition 3.13)
and ``_TOPICS`` merges the thirty chapters into a dozen topics. A function's gold topic is the topic of its module's
chapter: nobody labelled functions by hand, and no module was moved to where a classifier would like it better.

Left out: the chapter "Superseded Modules", which says how old a module is and not what it is about; documentation
pages without functions of their own; modules that act when imported (``readline`` and ``rlcompleter`` set up the
terminal, ``this`` and ``antigravity`` speak up); programs rather than libraries (``idlelib``, ``turtle``, ``test``).
"""

from __future__ import annotations

from typing import Final

# Modules stand in the order of the reference: of two that export the same object, the earlier one is its page.
_CHAPTERS: Final[dict[str, str]] = {
    "Built-in Functions": "builtins",
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
        "argparse optparse getpass fileinput curses curses.textpad curses.ascii curses.panel cmd getopt"
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
    "Python Runtime Services": (
        "sys sysconfig warnings dataclasses contextlib abc atexit traceback gc inspect site"
    ),
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
CHAPTER_OF_MODULE: Final[dict[str, str]] = {
    module: chapter for chapter, modules in _CHAPTERS.items() for module in modules.split()
}

TOPIC_OF_CHAPTER = {c: c for c in _CHAPTERS}
TOPIC_OF_MODULE = CHAPTER_OF_MODULE
GROUP_OF_MODULE = CHAPTER_OF_MODULE
