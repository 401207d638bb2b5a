/* Preloaded into a process, moves its time of day as the file HOOKWIRE_TEST_CLOCK says. Clocks that only measure stay as they are, and waits
 * until a time of day, as librdkafka has them, last as long as they should. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

/* By how many seconds, in the first bytes of the file, which the test may write at any time. */
static long off(void) {
  static volatile const long *seconds;
  if (!seconds) {
    int file = open(getenv("HOOKWIRE_TEST_CLOCK"), O_RDONLY);
    void *mapped = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (file < 0 || mapped == MAP_FAILED) abort();
    close(file);
    seconds = mapped;
  }
  return *seconds;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  int result = (int)syscall(SYS_clock_gettime, clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += off();
  return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  (void)zone;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}

/* The wait of this name that would have been called, until the same moment by the clock as it is. */
#define WAIT(name, condition, mutex, until)                                                          \
  static int (*wait)(void *, void *, const struct timespec *);                                        \
  if (!wait) wait = (int (*)(void *, void *, const struct timespec *))dlsym(RTLD_NEXT, name);         \
  struct timespec real = *(until);                                                                    \
  real.tv_sec -= off();                                                                               \
  return wait(condition, mutex, &real)

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
  WAIT("pthread_cond_timedwait", condition, mutex, until);
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
  WAIT("cnd_timedwait", condition, mutex, until);
}
