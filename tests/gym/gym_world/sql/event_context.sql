-- The timetable as announced; a later announcement of the same day is a new revision.
SELECT
    day,
    announced_on AS known_on,
    CAST(num_classes AS DOUBLE) AS num_classes,
    CAST(CASE WHEN is_open_day THEN 1 ELSE 0 END AS DOUBLE) AS open_day
FROM timetable
WHERE announced_on BETWEEN :first_day AND :last_day
