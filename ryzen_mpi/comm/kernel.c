/* Collectives among the ranks of one node over memory they share, by plain loads and stores, as Python calls them; and
 * the optimiser's update.
 *
 * meet.h: waiting for one another; reduce.h: adding up; collectives.h: who reads and writes what; adam.h: the update.
 * plain.py is the same in Python, for machines without a compiler; region.py opens the memory.
 */
#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "meet.h"
#include "collectives.h"
#include "adam.h"

static PyObject *PeerError;

/* --- what Python sees ---------------------------------------------------------------------------------------------- */

static int read_args(PyObject *const *args, Py_ssize_t given, int64_t *values, Py_ssize_t wanted) {
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments expected, not %zd", wanted, given);
        return -1;
    }
    for (Py_ssize_t i = 0; i < wanted; i++) {
        values[i] = PyLong_AsLongLong(args[i]);
        if (values[i] == -1 && PyErr_Occurred()) return -1;
        if (values[i] < 0) {
            PyErr_Format(PyExc_ValueError, "argument %zd is negative: %lld", i, (long long)values[i]);
            return -1;
        }
    }
    return 0;
}

static int read_how(const int64_t *values, How *how) {
    *how = (How){(int)values[0], (int)values[1], values[2]};
    if (values[0] >= DTYPES || values[1] >= OPS || values[2] < 1 || !reductions[values[0]][values[1]] ||
        (values[0] == F16 && !HAS_F16)) {
        PyErr_Format(PyExc_ValueError, "no reduction %lld of dtype %lld", (long long)values[1], (long long)values[0]);
        return -1;
    }
    return 0;
}

static int inside(const Region *self, int64_t offset, int64_t count, int64_t item) {
    if (item > 0 && (uint64_t)offset <= self->payload && (uint64_t)count <= (self->payload - offset) / item) return 1;
    PyErr_Format(PyExc_ValueError, "%lld elements of %lld bytes at %lld do not lie in an arena of %zu bytes",
                 (long long)count, (long long)item, (long long)offset, self->payload);
    return 0;
}

static PyObject *result_of(Region *self, Outcome outcome) {
    if (outcome.reason == OK) Py_RETURN_NONE;
    atomic_store_explicit(&header(self, self->rank)->failed, 1, memory_order_release); /* nobody waits for us now */
    if (outcome.reason == INTERRUPTED) return NULL; /* with what the signal handler raised */
    PyObject *what = Py_BuildValue("(sL)", reasons[outcome.reason], (long long)self->name[outcome.peer]);
    if (what) PyErr_SetObject(PeerError, what);
    Py_XDECREF(what);
    return NULL;
}

#define CALL(EXPRESSION)                         \
    do {                                         \
        PyThreadState *thread = PyEval_SaveThread(), **gil = &thread; \
        Outcome outcome = EXPRESSION;            \
        PyEval_RestoreThread(thread);            \
        return result_of(self, outcome);         \
    } while (0)

#define METHOD(NAME, WANTED)                                                               \
    static PyObject *py_##NAME(Region *self, PyObject *const *args, Py_ssize_t given) {    \
        int64_t v[WANTED + 1];                                                             \
        How how;                                                                           \
        (void)how;                                                                         \
        if (read_args(args, given, v, WANTED)) return NULL;

static Outcome barrier(Region *self, PyThreadState **gil) { return meet_for(self, (Call){BARRIER, 0, 0}, gil); }

METHOD(barrier, 0)
    CALL(barrier(self, gil));
}
METHOD(all_reduce, 5)
    if (read_how(v + 2, &how) || !inside(self, v[0], v[1], item_bytes[how.dtype])) return NULL;
    CALL(all_reduce(self, v[0], v[1], how, gil));
}
METHOD(reduce_scatter, 5)
    if (read_how(v + 2, &how) || !inside(self, v[0], v[1], item_bytes[how.dtype])) return NULL;
    CALL(reduce_scatter(self, v[0], v[1], how, gil));
}
METHOD(all_gather, 3)
    if (v[2] > LINE_BYTES || !inside(self, v[0], v[1], v[2])) return NULL;
    CALL(all_gather(self, v[0], v[1], v[2], gil));
}
METHOD(broadcast, 3)
    if (v[2] >= self->size || !inside(self, v[0], v[1], 1)) return NULL;
    CALL(broadcast(self, v[0], v[1], v[2], gil));
}
METHOD(staged_all_reduce, 6)
    if (read_how(v + 3, &how)) return NULL;
    CALL(staged_all_reduce(self, (char *)v[0], (char *)v[1], v[2], how, gil));
}
METHOD(staged_reduce_scatter, 6)
    if (read_how(v + 3, &how)) return NULL;
    CALL(staged_reduce_scatter(self, (char *)v[0], (char *)v[1], v[2], how, gil));
}
METHOD(staged_all_gather, 3)
    CALL(staged_all_gather(self, (char *)v[0], (char *)v[1], v[2], gil));
}
METHOD(staged_broadcast, 3)
    CALL(staged_broadcast(self, (char *)v[0], v[1], (int)v[2], gil));
}
METHOD(staged_all_to_all, 3)
    CALL(staged_all_to_all(self, (char *)v[0], (char *)v[1], v[2], gil));
}

static PyObject *py_set_timeout(Region *self, PyObject *seconds) {
    double value = PyFloat_AsDouble(seconds);
    if (value == -1 && PyErr_Occurred()) return NULL;
    self->timeout_ns = value < 1e9 ? (int64_t)(value * 1e9) : INT64_MAX;
    Py_RETURN_NONE;
}

static PyObject *py_give_up(Region *self, PyObject *unused) {
    (void)unused;
    atomic_store_explicit(&header(self, self->rank)->failed, 1, memory_order_release);
    Py_RETURN_NONE;
}

/* Region(rank, segments, payload, timeout_s, spins, pids, names): addresses of all ranks' segments, mapped here; pids as this
 * process sees them, or an empty tuple where it does not. */
static PyObject *region_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    (void)keywords;
    int rank, spins;
    Py_ssize_t payload_bytes;
    double timeout_s;
    PyObject *segments, *pids, *names;
    if (!PyArg_ParseTuple(args, "iO!ndiO!O!", &rank, &PyTuple_Type, &segments, &payload_bytes, &timeout_s, &spins,
                          &PyTuple_Type, &pids, &PyTuple_Type, &names))
        return NULL;
    Py_ssize_t size = PyTuple_Size(segments);
    if (rank < 0 || rank >= size || PyTuple_Size(names) != size || payload_bytes < 2 * LINE_BYTES * size) {
        PyErr_SetString(PyExc_ValueError, "rank, names or payload do not fit the number of segments");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Region *self = (Region *)allocate(type, 0);
    if (!self) return NULL;
    self->rank = rank, self->size = (int)size, self->spins = spins, self->payload = payload_bytes;
    self->timeout_ns = timeout_s < 1e9 ? (int64_t)(timeout_s * 1e9) : INT64_MAX;
    self->watch = PyTuple_Size(pids) == size;
    self->segment = calloc(5 * size + 1, sizeof(char *)); /* segments, sources, targets (two at least), pids, names */
    if (!self->segment) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->sources = self->segment + size, self->targets = self->sources + size;
    self->pid = (int64_t *)(self->targets + size + 1), self->name = self->pid + size;
    for (Py_ssize_t r = 0; r < size; r++) {
        self->segment[r] = (char *)PyLong_AsVoidPtr(PyTuple_GetItem(segments, r));
        self->name[r] = PyLong_AsLongLong(PyTuple_GetItem(names, r));
        if (self->watch) self->pid[r] = PyLong_AsLongLong(PyTuple_GetItem(pids, r));
    }
    if (PyErr_Occurred()) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void region_dealloc(Region *self) {
    PyTypeObject *type = Py_TYPE(self);
    free(self->segment);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

#define FAST(NAME) {#NAME, (PyCFunction)(void (*)(void))py_##NAME, METH_FASTCALL, NULL}
static PyMethodDef region_methods[] = {
    FAST(barrier), FAST(all_reduce), FAST(reduce_scatter), FAST(all_gather), FAST(broadcast), FAST(staged_all_reduce),
    FAST(staged_reduce_scatter), FAST(staged_all_gather), FAST(staged_broadcast), FAST(staged_all_to_all),
    {"set_timeout", (PyCFunction)py_set_timeout, METH_O, NULL},
    {"give_up", (PyCFunction)py_give_up, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot region_slots[] = {
    {Py_tp_new, region_new}, {Py_tp_dealloc, region_dealloc}, {Py_tp_methods, region_methods}, {0, NULL},
};
static PyType_Spec region_spec = {"ryzen_mpi.comm._kernel.Region", sizeof(Region), 0, Py_TPFLAGS_DEFAULT, region_slots};

/* reduce(sources, targets, count, dtype, op, divisor): addresses in tuples; local. */
static PyObject *py_reduce(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *from, *to;
    Py_ssize_t count;
    int dtype, op;
    long long divisor;
    if (!PyArg_ParseTuple(args, "O!O!niiL", &PyTuple_Type, &from, &PyTuple_Type, &to, &count, &dtype, &op, &divisor))
        return NULL;
    How how;
    Py_ssize_t sources = PyTuple_Size(from), targets = PyTuple_Size(to);
    if (sources < 1 || targets < 1 || count < 0 || dtype < 0 || op < 0) {
        PyErr_SetString(PyExc_ValueError, "nothing to reduce");
        return NULL;
    }
    if (read_how((int64_t[]){dtype, op, divisor}, &how)) return NULL;
    char **address = calloc(sources + targets, sizeof(char *));
    if (!address) return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < sources + targets; i++)
        address[i] = PyLong_AsVoidPtr(i < sources ? PyTuple_GetItem(from, i) : PyTuple_GetItem(to, i - sources));
    if (!PyErr_Occurred()) {
        PyThreadState *gil = PyEval_SaveThread();
        if (count)
            reductions[dtype][op](address, (int)sources, address + sources, (int)targets, count, how.divisor);
        PyEval_RestoreThread(gil);
    }
    free(address);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

/* widen_sum(sources, target, count, add): addresses of bfloat16 in a tuple, of float32; local. */
static PyObject *py_widen_sum(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *from, *to;
    Py_ssize_t count;
    int add;
    if (!PyArg_ParseTuple(args, "O!Onp", &PyTuple_Type, &from, &to, &count, &add)) return NULL;
    Py_ssize_t sources = PyTuple_Size(from);
    if (sources < 1 || count < 0) {
        PyErr_SetString(PyExc_ValueError, "nothing to add");
        return NULL;
    }
    char **address = calloc(sources, sizeof(char *));
    if (!address) return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < sources; i++) address[i] = PyLong_AsVoidPtr(PyTuple_GetItem(from, i));
    float *target = PyLong_AsVoidPtr(to);
    if (!PyErr_Occurred()) {
        PyThreadState *gil = PyEval_SaveThread();
        widen_sum(address, (int)sources, target, count, add);
        PyEval_RestoreThread(gil);
    }
    free(address);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

/* adam((weights, gradient, first, second), begin, end, dtype, (factor, rate, beta1, beta2, epsilon, decay, correction,
 * root), coupled, decayed, (copy, dtype, part, stride)): see adam.h; addresses, and 0 for no copy; local. */
static PyObject *py_adam(PyObject *module, PyObject *args) {
    (void)module;
    Adam how;
    Py_ssize_t address[4], copy, begin, end, decayed, part, stride;
    int wide, narrow;
    if (!PyArg_ParseTuple(args, "(nnnn)nni(dddddddd)pn(ninn)", address, address + 1, address + 2, address + 3, &begin,
                          &end, &wide, &how.factor, &how.rate, &how.beta1, &how.beta2, &how.epsilon, &how.decay,
                          &how.correction, &how.root, &how.coupled, &decayed, &copy, &narrow, &part, &stride))
        return NULL;
    if ((wide != F32 && wide != F64) || (narrow != wide && (wide != F32 || narrow != BF16)) || begin < 0 || part < 1) {
        PyErr_Format(PyExc_ValueError, "no update of dtype %d with copies of %d in parts of %zd", wide, narrow, part);
        return NULL;
    }
    how.decayed = decayed;
    char *vectors[] = {(char *)address[0], (char *)address[1], (char *)address[2], (char *)address[3]};
    PyThreadState *gil = PyEval_SaveThread();
    adam(vectors, begin, end, wide, narrow, &how, (Published){(char *)copy, part, stride});
    PyEval_RestoreThread(gil);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {{"reduce", py_reduce, METH_VARARGS, NULL},
                                  {"widen_sum", py_widen_sum, METH_VARARGS, NULL},
                                  {"adam", py_adam, METH_VARARGS, NULL},
                                  {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernel", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) {
    PyObject *self = PyModule_Create(&module);
    PyObject *type = PyType_FromSpec(&region_spec);
    PeerError = PyErr_NewException("ryzen_mpi.comm._kernel.PeerError", NULL, NULL);
    if (!self || !type || !PeerError) return NULL;
    Py_INCREF(PeerError);
    if (PyModule_AddObject(self, "Region", type) || PyModule_AddObject(self, "PeerError", PeerError) ||
        PyModule_AddIntConstant(self, "HEADER_BYTES", HEADER_BYTES) ||
        PyModule_AddIntConstant(self, "HAS_F16", HAS_F16))
        return NULL;
    return self;
}
