/* The error for a keyword that a native function does not have names the nearest one that it has, as the decorator
   `errors.named_keywords` does for functions of Python.

   Cython's own code reads arguments, and raises by PyErr_Format where `argnames` are the names that the function has.
   So a call that is right costs nothing. In any other function the name stands for the variable here: no names. */
#ifndef INBOUND_AUDIT_KEYWORDS_H
#define INBOUND_AUDIT_KEYWORDS_H

#include <Python.h>
#include <stdarg.h>
#include <string.h>

#define IA_UNEXPECTED "%s() got an unexpected keyword argument '%U'"

static PyObject **const *const argnames = NULL;

/* "; did you mean 'remote'?", or an empty text: a new reference; NULL with an exception. */
static PyObject *ia_did_you_mean(PyObject *keyword, PyObject **const *names) {
  PyObject *hint = NULL, *known = PyList_New(0), *errors = PyImport_ImportModule("inbound_audit.errors");
  int failed = known == NULL || errors == NULL;
  for (; !failed && *names != NULL; names++)
    failed = PyList_Append(known, **names) < 0;
  if (!failed)
    hint = PyObject_CallMethod(errors, "did_you_mean", "OO", keyword, known);
  Py_XDECREF(known);
  Py_XDECREF(errors);
  return hint;
}

/* PyErr_Format, with a hint after the message about an unknown keyword. */
static PyObject *ia_error_format(PyObject **const *names, PyObject *type, const char *format, ...) {
  va_list values;
  va_start(values, format);
  if (names == NULL || strcmp(format, IA_UNEXPECTED) != 0) {
    PyErr_FormatV(type, format, values);
  } else {
    const char *function = va_arg(values, const char *);
    PyObject *keyword = va_arg(values, PyObject *), *hint = ia_did_you_mean(keyword, names);
    if (hint != NULL)
      PyErr_Format(type, IA_UNEXPECTED "%U", function, keyword, hint);
    Py_XDECREF(hint);
  }
  va_end(values);
  return NULL;
}

#define PyErr_Format(...) ia_error_format(argnames, __VA_ARGS__)

#endif
